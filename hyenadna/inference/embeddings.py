"""Files of embeddings: parts while a run is unfinished, so that it can be resumed; then one ``.npz`` or Parquet."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.files import atomic_file, write_error
from hyenadna.common.parts import NumberedParts

COLUMNS = ("name", "contig", "start", "end", "label")


@dataclass(frozen=True)
class Embeddings:
    """Embeddings and their sequences.

    Attributes:
        vectors: float32 ``(n, D)``.
        name: str ``(n,)``.
        contig: str ``(n,)``; "" for the sequences of a table without columns of positions.
        start: int64 ``(n,)``, 0-based position in the contig.
        end: int64 ``(n,)``, one past the last position.
        label: str ``(n,)``; "" if there is none.
    """

    vectors: np.ndarray
    name: np.ndarray
    contig: np.ndarray
    start: np.ndarray
    end: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def read(cls, path: Path) -> Embeddings:
        """Read a file that `hyenadna embed` wrote.

        Raises:
            InputError: the file does not exist, or does not hold embeddings.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such file; hyenadna embed writes one")
        try:
            if path.suffix == ".parquet":
                frame = require("polars").read_parquet(path)
                columns = {name: frame[name].to_numpy() for name in COLUMNS}
                vectors = frame["embedding"].to_numpy()
            else:
                if not zipfile.is_zipfile(path):
                    raise ValueError("it is not a .npz")
                with np.load(path, allow_pickle=False) as file:
                    columns = {name: file[name] for name in COLUMNS}
                    vectors = file["embedding"]
        except ImportError:
            raise
        except Exception as error:
            # numpy, zipfile and polars each have exceptions of their own for a file of another kind.
            reason = (str(error).splitlines() or [""])[0]
            if "allow_pickle" in reason:
                reason = "it holds Python objects"
            raise InputError(f"{path}: was not written by hyenadna embed ({reason})") from error
        text = {name: columns[name].astype(str) for name in ("name", "contig", "label")}
        return cls(vectors.astype(np.float32), **text, start=columns["start"], end=columns["end"])


class Parts(NumberedParts):
    """The parts of a file of embeddings, in the format of the file.

    ``.npz`` must not need polars, and both formats are joined without holding all in memory.

    Args:
        out: ``.npz`` or ``.parquet``.
        settings: see :class:`NumberedParts`.
        resume: resume from the parts in the folder.

    Raises:
        InputError: as :class:`NumberedParts`.
        ImportError: ``out`` is Parquet, and polars is absent.
    """

    def __init__(self, out: Path, settings: dict[str, Any], *, resume: bool) -> None:
        if out.suffix == ".parquet":
            require("polars")
        super().__init__(out, settings, ending=out.suffix, resume=resume)

    def add(self, number: int, sequences: int, columns: dict[str, np.ndarray]) -> None:
        """Write a part that holds this many sequences. ``columns`` are the columns of the file, by name."""
        self.begin()
        path = self.place(number, sequences)
        with atomic_file(path) as draft:
            if self.out.suffix == ".parquet":
                polars = require("polars")
                width = columns["embedding"].shape[1]
                kinds = {"embedding": polars.Array(polars.Float32, width)}
                with _polars_errors(path):
                    polars.DataFrame(columns, schema_overrides=kinds).write_parquet(draft)
            else:
                with draft.open("wb") as file:
                    np.savez(file, **columns)  # type: ignore[arg-type]

    def finish(self) -> None:
        """Join the parts into the file, with one part in memory at a time, and remove them."""
        with atomic_file(self.out) as draft:
            if self.out.suffix == ".parquet":
                with _polars_errors(self.out):
                    require("polars").scan_parquet(self.files()).sink_parquet(draft)
            else:
                _join_npz(self.files(), draft)
        self.remove()


@contextmanager
def _polars_errors(path: Path) -> Iterator[None]:
    """A full disk is a ComputeError of polars."""
    try:
        yield
    except require("polars").exceptions.PolarsError as error:
        raise write_error(path, error) from error


def _join_npz(parts: list[Path], out: Path) -> None:
    with np.load(parts[0]) as first:
        names = list(first)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in names:
            shapes, kinds = zip(*((array.shape, array.dtype) for array in _arrays(parts, name)), strict=True)
            # Strings may have different widths in different parts.
            kind = np.result_type(*kinds)
            header = {
                "descr": np.lib.format.dtype_to_descr(kind),
                "fortran_order": False,
                "shape": (sum(shape[0] for shape in shapes), *shapes[0][1:]),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, header)
                for array in _arrays(parts, name):
                    file.write(array.astype(kind, copy=False).tobytes())


def _arrays(parts: Iterable[Path], name: str) -> Iterator[np.ndarray]:
    for part in parts:
        with np.load(part) as file:
            yield file[name]

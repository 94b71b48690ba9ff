"""Time and memory of ``hyenadna mutate`` on synthetic mutations.

    python examples/cancer/cost.py --fasta genome.fa --lines 50 --mutations 1000 --length 32768
    python examples/cancer/cost.py --bases 3100000000 --lines 700 --mutations 1000 --per_line 1

Without ``--fasta`` it makes a random genome with the given number of bases, in 24 contigs. Inputs and tables lie in a
temporary folder. The time is that of the processor, in a fresh process. A FASTA is prepared before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import synthetic

# First: so hyenadna imports neither torch nor transformers. A new process counts the memory of the one that starts it.
import hyenadna_command  # noqa: F401
from hyenadna.common.vocab import BASES
from hyenadna.data.genome import prepare

CONTIGS = 24
_BLOCK = 1 << 24
_COMMAND = "import hyenadna_command; hyenadna_command.main()"


def random_fasta(path: Path, bases: int, seed: int) -> None:
    """Write a FASTA of as many random bases, in contigs of equal length."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(BASES.encode(), dtype=np.uint8)
    with path.open("wb") as file:
        for number in range(CONTIGS):
            file.write(f">chr{number + 1}\n".encode())
            for start in range(0, bases // CONTIGS, _BLOCK):
                size = min(_BLOCK, bases // CONTIGS - start)
                file.write(letters[rng.integers(0, 4, size, dtype=np.uint8)].tobytes())
            file.write(b"\n")


def main() -> None:
    """Read the options, make the inputs, run the command and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", type=Path, help="reference; by default a random one")
    parser.add_argument("--bases", type=int, default=1_000_000, help="bases of the random reference")
    parser.add_argument("--lines", type=int, default=50, help="lines of each of two classes")
    parser.add_argument("--mutations", type=int, default=1000, help="mutations of a line on average")
    parser.add_argument("--length", type=int, default=1024, help="bases of a sequence")
    parser.add_argument("--per_line", default="min", help="sequences of a line")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fasta = args.fasta
        if fasta is None:
            fasta = folder / "random.fa"
            random_fasta(fasta, args.bases, seed=0)
        prepare(fasta, folder / "genome", progress=False)
        if args.fasta is None:
            fasta.unlink()
        synthetic.write(folder / "genome", folder, args.lines, args.mutations, "", 0.05, seed=0)
        words = "mutate --fasta genome --mutations mutations.csv --models Model.csv --classes A,B --out_dir out "
        words += f"--more_than 0 --train_lines {args.lines} --validation_lines 0 --test_lines 0 "
        words += f"--length {args.length} --per_line {args.per_line} --workers {args.workers}"
        command = [sys.executable, "-c", _COMMAND, *words.split()]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        size = sum(path.stat().st_size for path in (folder / "out").iterdir())
    print(
        f"{seconds:,.1f} s of processor time, {after.ru_maxrss / 1024:,.0f} MiB at most, {size / 1e6:,.0f} MB written"
    )


if __name__ == "__main__":
    main()

"""Prove that a refactoring changed nothing that is computed on the CPU.

The script computes every op, the modules, a tiny model and the command line, all from fixed seeds and on one thread.
It writes the SHA-256 digest of every result and gradient to a file, and compares the digests with an earlier file.
Run it in the root of a checkout. It tests the packages in that folder, so the script may lie elsewhere.

Only public names of ``hyena_kernels`` and ``hyenadna`` and the command line are used, so files may move in between.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bits_cases import Case, calls, interpreted_ops, models, modules, ops, special_ops, tokenizer
from torch import Tensor

EXAMPLE = """example:
  python tests/bits.py --out before.json                         on the tree before the change
  python tests/bits.py --out after.json --against before.json    on the tree after it
  python tests/bits.py --against before.json --only 'fftconv/cpp/*'

exit code: 0 if all is equal, 1 if something differs or fails, 2 if the files cannot be compared."""

# The files are in the working folder of the commands. All options are here, in case one is renamed.
COMMANDS: dict[str, list[str]] = {
    "prepare": ["genome.fa", "--out", "genome"],
    "pretrain": [
        *("--genome", "genome", "--out", "run", "--valid_contigs", "b", "--test_contigs", "c", "--device", "cpu"),
        *("--d_model", "16", "--n_layer", "2", "--max_seq_len", "130", "--length", "64", "--steps", "6"),
        *("--batch_size", "4", "--accumulate", "2", "--lr", "0.01", "--log_every", "1", "--eval_every", "3"),
        *("--eval_windows", "4", "--seed", "5", "--threads", "1"),
    ],
    "evaluate": ["--model", "run/model", "--genome", "genome", "--out", "evaluation", "--device", "cpu"],
    "score": [
        *("--model", "run/model", "--vcf", "variants.vcf", "--genome", "genome", "--window", "100"),
        *("--strands", "both", "--out", "variants.tsv", "--device", "cpu"),
    ],
    "score fasta": [
        *("--model", "run/model", "--fasta", "short.fa", "--window", "100", "--stride", "50"),
        *("--precision", "float32", "--out", "sequences.tsv", "--device", "cpu"),
    ],
    "embed": ["--model", "run/model", "--fasta", "short.fa", "--out", "embeddings.npz", "--device", "cpu"],
    "generate": [
        *("--model", "run/model", "--prompt", "ACGTTGCA", "--length", "24", "--count", "3", "--seed", "7"),
        *("--out", "generated.fa", "--device", "cpu"),
    ],
    "finetune": [
        *("--data", "labelled.tsv", "--model", "run/model", "--out", "tuned", "--epochs", "2", "--batch_size", "16"),
        *("--threads", "1", "--device", "cpu"),
    ],
    "predict": ["--model", "tuned/model", "--table", "labelled.tsv", "--out", "predicted.tsv", "--device", "cpu"],
}
# Keys of the JSON files whose values are times.
TIMES = {"seconds", "tokens_per_second"}

# Parts that need an environment of their own run in a process of their own.
ENVIRONMENTS = {
    "triton": {"TRITON_INTERPRET": "1"},
    "cpp-portable": {"HYENA_CPU_ISA": "portable"},
    "cpp-avx2": {"HYENA_CPU_ISA": "avx2"},
}


def digest(value: Any) -> str:
    """SHA-256 of the bytes of a value, with the dtype and shape of a tensor or array."""
    hashed = hashlib.sha256()
    if isinstance(value, Tensor):
        value = value.detach().contiguous()
        hashed.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        assert value.dtype != object, "the bytes of an array of objects are addresses"
        hashed.update(f"{value.dtype} {value.shape} ".encode() + value.tobytes())
    elif isinstance(value, bytes):
        hashed.update(value)
    else:
        hashed.update(json.dumps(value, sort_keys=True).encode())
    return hashed.hexdigest()


# ---- command line


def bases(rng: random.Random, count: int) -> str:
    """Random bases, and copies of what came before, so that there is something to learn."""
    text = "".join(rng.choices("ACGT", weights=(3, 2, 2, 3), k=50))
    while len(text) < count:
        start = rng.randrange(len(text) - 20)
        text += text[start : start + 20] if rng.random() < 0.5 else "".join(rng.choices("ACGT", k=20))
    return text[:count]


def write_inputs(folder: Path) -> None:
    rng = random.Random(0)
    genome = {"a": bases(rng, 3000) + 30 * "N" + bases(rng, 970).lower(), "b": bases(rng, 900), "c": bases(rng, 700)}
    (folder / "genome.fa").write_text("".join(f">{name}\n{text}\n" for name, text in genome.items()))
    short = {f"s{i}": bases(rng, 60 + 15 * i) for i in range(5)}
    (folder / "short.fa").write_text("".join(f">{name}\n{text}\n" for name, text in short.items()))
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for contig, start in (("a", 40), ("a", 1200), ("b", 500), ("c", 1), ("c", 690)):
        reference = genome[contig][start - 1]
        other = "ACGT"[("ACGT".index(reference) + 1) % 4]
        pair = genome[contig][start - 1 : start + 2]
        for number, (ref, alt) in enumerate([(reference, other), (reference, reference + "TTG"), (pair, reference)]):
            lines.append(f"{contig}\t{start}\t{contig}{start}{number}\t{ref}\t{alt}\t.\tPASS\t.")
    (folder / "variants.vcf").write_text("\n".join(lines) + "\n")
    rows = ["sequence\tlabel"]
    for i in range(90):
        weights = (1, 4, 4, 1) if i % 3 else (3, 2, 2, 3)
        rows.append("".join(rng.choices("ACGT", weights=weights, k=rng.randrange(40, 80))) + f"\t{i % 3 != 0:d}")
    (folder / "labelled.tsv").write_text("\n".join(rows) + "\n")


def numbers(value: Any, path: str) -> dict[str, Any]:
    """Every number of a JSON value by its path, without times. Strings are left out, because they name files."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {path: value} if isinstance(value, int | float) else {}
    found: dict[str, Any] = {}
    for key, part in value.items():
        if key not in TIMES:
            found |= numbers(part, f"{path}/{key}")
    return found


def json_numbers(file: Path) -> dict[str, Any]:
    text = file.read_text()
    rows = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
    return numbers(rows, file.name)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {f"weights {key}": tensor for key, tensor in load_file(folder / "model.safetensors").items()}


def collect(command: str, folder: Path) -> dict[str, Any]:
    """What a command has written."""
    if command == "prepare":
        index, *tokens = sorted((folder / "genome").iterdir(), key=lambda file: file.suffix != ".json")
        return {**json_numbers(index), **{file.name: file.read_bytes() for file in tokens}}
    if command == "pretrain":
        return {**json_numbers(folder / "run" / "metrics.jsonl"), **weights(folder / "run" / "model")}
    if command == "evaluate":
        return json_numbers(folder / "evaluation" / "evaluation.json")
    if command == "embed":
        with np.load(folder / "embeddings.npz", allow_pickle=True) as file:
            arrays = {name: file[name] for name in file.files}
        return {name: array.tolist() if array.dtype == object else array for name, array in arrays.items()}
    if command == "finetune":
        tuned = folder / "tuned"
        return {
            **json_numbers(tuned / "results.json"),
            **json_numbers(tuned / "metrics.jsonl"),
            **weights(tuned / "model"),
        }
    file = folder / COMMANDS[command][COMMANDS[command].index("--out") + 1]
    return {file.name: file.read_bytes()}


def commands(folder: Path) -> Iterator[Case]:
    """The command line, each command on what those before it have written."""
    done: set[str] = set()

    def start(command: str) -> None:
        verb = command.split()[0]
        arguments = [sys.executable, "-m", "hyenadna", verb, *COMMANDS[command]]
        ended = subprocess.run(arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1200)
        if ended.returncode:
            last = " ".join(ended.stderr.split())[-500:]
            raise RuntimeError(f"hyenadna {' '.join(arguments[3:])}: exit code {ended.returncode}: {last}")
        done.add(command)

    def run(command: str) -> dict[str, Any]:
        if not done:
            write_inputs(folder)
        needed = {"prepare": [], "pretrain": ["prepare"], "predict": ["prepare", "pretrain", "finetune"]}
        for before in needed.get(command, ["prepare", "pretrain"]):
            if before not in done:
                start(before)
        if command not in done:
            start(command)
        return collect(command, folder)

    for command in COMMANDS:
        yield Case(f"command/{command}", partial(run, command))


# ---- running and comparing


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process: this tree, one thread, no GPU."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **changes,
    }


def clean_environment() -> None:
    """Take away what chooses another backend or instruction set."""
    for variable in list(os.environ):
        if variable.startswith("HYENA_") or variable in ("TRITON_INTERPRET", "ATEN_CPU_CAPABILITY"):
            del os.environ[variable]


def use_tree(names: list[str]) -> str | None:
    """Import packages from the working folder; the reason why that fails, or None."""
    # The folder of this script has folders of the packages' names.
    beside = Path(__file__).resolve().parent
    sys.path[:] = [str(Path.cwd()), *(path for path in sys.path if Path(path).resolve() != beside)]
    for package in map(importlib.import_module, names):
        found = Path(str(package.__file__)).resolve().parents[1]
        if found != Path.cwd().resolve():
            return f"{package.__name__} was imported from {found}: start this script in the root of a checkout"
    return None


def runs(backend: str) -> bool:
    import hyena_kernels

    try:
        hyena_kernels.fftconv(torch.ones(1, 1, 2), torch.ones(1, 2), backend=backend)
    except hyena_kernels.BackendError as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def setting() -> dict[str, str]:
    """What bits depend on besides the code."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        # Model name and flags, as MKL chooses by them.
        described = [line for line in lines if line.startswith(("model name", "cpu family", "model\t", "flags"))][:4]
        processor = f"{platform.machine()} {hashlib.sha256(' '.join(described).encode()).hexdigest()[:16]}"
    versions = {}
    for name in ("numpy", "transformers", "triton", "safetensors"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "torch": torch.__version__,
        "CPU instruction set": torch.backends.cpu.get_cpu_capability(),
        "processor": processor,
        "Python": platform.python_version(),
        **versions,
    }


def cases(worker: str | None, folder: Path) -> Iterator[Case]:
    if worker == "triton":
        yield from interpreted_ops()
        return
    if worker is not None:
        yield from ops("cpp", worker, (7, 257))
        return
    for call in calls(257, torch.float32):
        yield call.case("default", None)
    for backend in ("torch", "cpp"):
        if runs(backend):
            yield from ops(backend, backend)
            yield from special_ops(backend)
            yield from modules(backend)
            yield from models(backend)
    yield Case("DNATokenizer", tokenizer)
    yield from commands(folder)


def run_cases(pattern: str, worker: str | None, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Digests by name, and the names of the cases that failed."""
    digests: dict[str, str] = {}
    failed = []
    started = told = time.perf_counter()
    for case in cases(worker, folder):
        if not fnmatch.fnmatchcase(case.name, pattern):
            continue
        now = time.perf_counter()
        if now - told > 2 or case.name.startswith("command/"):
            print(f"{now - started:6.1f} s  {case.name}", file=sys.stderr, flush=True)
            told = now
        try:
            digests.update({f"{case.name}: {part}": digest(value) for part, value in case.run().items()})
        except Exception as error:
            failed.append(case.name)
            print(f"failed: {case.name}: {type(error).__name__}: {error}", file=sys.stderr)
    return digests, failed


def workers() -> list[str]:
    """The ``ENVIRONMENTS`` that can run here."""
    if not runs("cpp"):
        return ["triton"]
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return [worker for worker in ENVIRONMENTS if has_avx2 or worker != "cpp-avx2"]


def run_worker(worker: str, pattern: str, folder: Path) -> tuple[dict[str, str], list[str]]:
    """The cases of one of ``ENVIRONMENTS``, in a process of its own."""
    out = folder / f"{worker}.json"
    arguments = [sys.executable, __file__, "--worker", worker, "--only", pattern, "--out", str(out)]
    code = subprocess.run(arguments, env=environment(**ENVIRONMENTS[worker]), timeout=1200).returncode
    if not out.is_file():
        return {}, [f"{worker} (exit code {code})"]
    written = json.loads(out.read_text())
    return written["digests"], written["failed"]


def compare(before: dict[str, str], after: dict[str, str]) -> bool:
    """Print how many digests are equal, and every difference; whether there is none."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            lines.append(f"only before: {name}")
        elif name not in before:
            lines.append(f"only now:    {name}")
        elif before[name] != after[name]:
            lines.append(f"differs:     {name}")
    equal = len(before.keys() & after.keys()) - sum(line.startswith("differs") for line in lines)
    print("\n".join([*lines, f"{equal:,} equal, {len(lines):,} different"]))
    return not lines and equal > 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file to write, with a digest for each name")
    parser.add_argument("--against", type=Path, help="JSON file of an earlier run to compare with")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="run the cases that match, such as 'command/*'")
    parser.add_argument("--worker", choices=list(ENVIRONMENTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out is None and args.against is None:
        parser.error("give --out, --against, or both")
    earlier: dict[str, Any] = {}
    if args.against is not None:
        try:
            earlier = json.loads(args.against.read_text())
            earlier["setting"], earlier["digests"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            parser.error(f"{args.against}: cannot be read as an earlier run ({error})")
    if args.worker is None:
        clean_environment()
    packages = ["hyena_kernels", "hyenadna"] if args.worker is None else ["hyena_kernels"]
    if (reason := use_tree(packages)) is not None:
        parser.error(reason)
    if args.worker is None:
        print(f"packages of {Path.cwd()}", file=sys.stderr)
    torch.set_num_threads(1)
    here = setting()
    if earlier:
        for name in here.keys() | earlier["setting"].keys():
            if here.get(name) != (there := earlier["setting"].get(name)):
                parser.error(f"{args.against}: {name} was {there} and is {here.get(name)}; bits cannot be compared")

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        digests, failed = run_cases(args.only, args.worker, Path(folder))
        for worker in workers() if args.worker is None else ():
            if any(fnmatch.fnmatchcase(case.name, args.only) for case in cases(worker, Path(folder))):
                more, more_failed = run_worker(worker, args.only, Path(folder))
                digests |= more
                failed += more_failed
    if args.out is not None:
        written = {"setting": here, "failed": failed, "digests": digests}
        args.out.write_text(json.dumps(written, indent=1) + "\n")
    if args.worker is None:
        print(f"{len(digests):,} digests in {time.perf_counter() - started:.0f} s, {len(failed)} cases failed")
    is_equal = True
    if earlier:
        wanted = {
            name: value
            for name, value in earlier["digests"].items()
            if fnmatch.fnmatchcase(name.split(": ")[0], args.only)
        }
        is_equal = compare(wanted, digests)
    return 0 if is_equal and digests and not failed else 1


if __name__ == "__main__":
    sys.exit(main())

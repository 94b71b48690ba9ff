"""Run the CPU kernels of the compiled extension under sanitizers: ``make sanitize``, or one of

    python tests/sanitizers/run.py address     # AddressSanitizer and UndefinedBehaviorSanitizer under the ops' tests
    python tests/sanitizers/run.py thread      # ThreadSanitizer on the kernels alone, over std::thread

The package and its tests are copied to ``build/sanitize``, and the library is compiled there. The library in the
checkout does not change. Needs Linux and GCC with its sanitizers. Every instruction set of this processor is tested.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hyena_kernels import _build  # noqa: E402

FOLDER = ROOT / "build" / "sanitize"
INSTRUCTION_SETS = ("avx512", "avx2", "portable")

# The first fault ends the process. -O1 keeps line numbers and takes less time than -O0.
ADDRESS_FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1"
THREAD_FLAGS = ["-std=c++17", "-fsanitize=thread", "-fno-omit-frame-pointer", "-O1", "-g1", "-Wno-psabi"]

# Each kernel, forward and backward, with every dtype and kind of stride, at the sizes where its algorithm changes.
TESTS = [
    "tests/hyena_kernels/backends/cpp/test_fftconv.py::test_sizes_of_one_part",
    "tests/hyena_kernels/backends/cpp/test_fftconv.py::test_sizes_of_many_parts",
    "tests/hyena_kernels/backends/cpp/test_implicit_filter.py::test_lengths_at_the_edges_of_tiles",
    "tests/hyena_kernels/backends/cpp/test_implicit_filter.py::test_sizes_that_no_vector_divides",
    "tests/hyena_kernels/test_fftconv.py::test_dtypes_gates_and_skip",
    "tests/hyena_kernels/test_short_conv.py::test_dtypes",
    "tests/hyena_kernels/test_short_conv.py::test_error_is_within_budget",
    "tests/hyena_kernels/test_mixer.py::test_dtypes_bias_and_skip",
    "tests/hyena_kernels/test_mixer.py::test_short_filters",
    "tests/hyena_kernels/test_mixer.py::test_error_is_within_budget",
    "tests/hyena_kernels/test_mixer_step.py::test_error_is_within_budget",
    "tests/hyena_kernels/test_mixer_step.py::test_dtypes_bias_and_short_filters",
    "tests/hyena_kernels/test_mixer_step.py::test_strides_do_not_matter",
    "tests/hyena_kernels/registration/test_library.py::test_strides_do_not_matter",
    "tests/hyena_kernels/registration/test_library.py::test_each_tensor_alone_gets_the_gradient_that_it_gets_among_others",
    "tests/hyena_kernels/registration/test_library.py::test_every_element_is_written",
    "tests/hyena_kernels/registration/test_library.py::test_empty_batch_or_no_channels",
]
# Plain PyTorch has no kernels of ours.
LEFT_OUT = "not [torch"


def copy_of_the_checkout(folder: Path) -> None:
    """Copy the packages and their tests, without libraries."""
    shutil.rmtree(folder, ignore_errors=True)
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", _build.REPORT)
    for name in ("csrc", "hyena_kernels", "tests", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", folder)


def lacks(isa: str) -> bool:
    """Whether this processor lacks an instruction set."""
    features = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return isa != "portable" and {"avx512": "avx512dq", "avx2": "avx2"}[isa] not in features.split()


def instruction_sets() -> list[str]:
    """The instruction sets of this processor. Prints those that it lacks."""
    for isa in INSTRUCTION_SETS:
        if lacks(isa):
            print(f"{isa}: skipped, this processor does not have it", flush=True)
    return [isa for isa in INSTRUCTION_SETS if not lacks(isa)]


def runtime(name: str) -> str:
    """Path of a sanitizer's runtime library."""
    return subprocess.run(
        [*_build._cxx(), f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def address() -> bool:
    """Whether the ops' tests pass without a fault."""
    copy_of_the_checkout(FOLDER)
    os.environ["CXXFLAGS"] = f"{os.environ.get('CXXFLAGS', '')} {ADDRESS_FLAGS}"
    _build.compile_library("cpp", FOLDER / "hyena_kernels")
    environment = {
        **os.environ,
        # Python is not linked with the sanitizer, so it has to be loaded first. Leaks are not searched for: Python and
        # torch keep some memory to the end.
        "LD_PRELOAD": runtime("libasan.so"),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "HYENA_BACKEND": "cpp",
    }
    passed = True
    for isa in instruction_sets():
        print(f"{isa}: AddressSanitizer and UndefinedBehaviorSanitizer", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", LEFT_OUT, *TESTS]
        passed &= not subprocess.run(
            command, cwd=FOLDER, env={**environment, "HYENA_CPU_ISA": isa}, check=False
        ).returncode
    return passed


def thread() -> bool:
    """Whether the planted race is found, and no other."""
    folder = FOLDER / "thread"
    folder.mkdir(parents=True, exist_ok=True)
    kernels = [source for source in _build.cpu_sources() if source.name != "bindings.cpp"]
    sources = [*kernels, Path(__file__).with_name("threads.cpp")]
    compiler = [*_build._cxx(), *THREAD_FLAGS, f"-I{_build.CSRC / 'cpu'}"]
    objects = [folder / f"{source.name}.o" for source in sources]
    _build._run_all(
        [[*compiler, "-c", str(source), "-o", str(place)] for source, place in zip(sources, objects, strict=True)],
        verbose=False,
    )
    program = folder / "threads"
    _build._run([*compiler, *map(str, objects), "-o", str(program), "-lpthread"])
    # Some Linux kernels place memory at random, where the sanitizer needs the addresses.
    fixed = ["setarch", os.uname().machine, "-R"] if shutil.which("setarch") else []
    passed = True
    for isa in instruction_sets():
        environment = {**os.environ, "HYENA_CPU_ISA": isa, "TSAN_OPTIONS": "halt_on_error=1"}
        clean = subprocess.run([*fixed, str(program)], env=environment, check=False).returncode == 0
        planted = subprocess.run(
            [*fixed, str(program), "--plant"], env=environment, check=False, capture_output=True, text=True
        )
        found = planted.returncode != 0 and "data race" in planted.stderr
        print(f"{isa}: ThreadSanitizer: {'no race' if clean else 'FAILED'}; ", end="")
        print(f"the planted race was {'found' if found else 'NOT FOUND'}", flush=True)
        passed &= clean and found
    return passed


KINDS = {"address": address, "thread": thread}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=f"python {shlex.quote(os.path.relpath(__file__))}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, help="default: both")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("needs Linux")
    obstacle = _build.obstacle("cpp")
    if obstacle is not None:
        parser.error(obstacle)
    failed = [kind for kind in KINDS if options.kind in (kind, None) and not KINDS[kind]()]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

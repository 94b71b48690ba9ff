"""The CUDA kernels on the CPU: the sources of csrc/cuda compiled by the host's compiler with cuda_emulation.h.

Launches, geometry, shared memory and barriers are the real ones, and so is the Python that composes them. Only the
hardware is missing. Every case runs twice, with the threads of a block in ascending and in descending order. Both must
give the same bits, so a missing barrier is seen.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import _build, backend, fftconv, hyena_mixer, use_backend
from hyena_kernels.backends import extension
from hyena_kernels.common import sizes
from hyena_kernels.testing import (
    OPS,
    Inputs,
    check,
    error_budget,
    fftconv_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    relative_error,
    short_conv_inputs,
    value_and_gradients,
)
from hyena_kernels.testing.resources import cuda as _resources
from tests.hyena_kernels.helpers import assert_products_need_not_fit

HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64

MIN_ELEMENTS = 32
"""The error of fewer elements varies by chance, and so does their budget."""


def compile_library(folder: Path, sources: list[Path], *flags: str) -> Path:
    """Compile CUDA sources for the CPU, two at a time, and link them."""
    if COMPILER is None:
        pytest.skip("needs a C++ compiler, and there is no g++ on the PATH")
    common = [COMPILER, "-O1", "-std=c++17", "-fPIC", "-fvisibility=hidden", f"-I{HERE}", f"-I{TORCH / 'include'}"]
    common += [f"-I{_build.CSRC / 'cuda'}", f"-DTORCH_TARGET_VERSION={_build.TORCH_TARGET_VERSION}", *flags]

    def compile_object(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        command = [*common, "-c", "-x", "c++", str(source), "-o", target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_object, sources))
    library = folder / "emulated.so"
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([COMPILER, "-shared", *objects, "-o", str(library), *libraries], check=True)
    return library


class Emulation:
    """The loaded library and its record of launches."""

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(str(path))
        self.library = ctypes.CDLL(str(path))
        self.descending = ctypes.c_int.in_dll(self.library, "hyena_emulation_descending")
        self.library.hyena_emulation_launches.restype = ctypes.c_char_p

    def launches(self) -> dict[str, set[tuple[int, int]]]:
        """Threads and shared memory of every launch since the last call, by kernel without its template arguments."""
        found: dict[str, set[tuple[int, int]]] = {}
        for line in self.library.hyena_emulation_launches().decode().splitlines():
            kernel, threads, shared = line.rsplit(" ", 2)
            found.setdefault(re.sub(r"<.*", "", kernel), set()).add((int(threads), int(shared)))
        return found


@pytest.fixture(scope="session")
def library(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Emulation:
    folder = made_once("emulation", lambda folder: compile_library(folder, _build.cuda_sources()))
    return Emulation(folder / "emulated.so")


@pytest.fixture
def emulation(library: Emulation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulation]:
    """Run the backend "cuda" on CPU tensors, and forget the launches of other tests."""
    library.launches()
    monkeypatch.setattr(extension, "obstacles", lambda backend, device: [])
    with use_backend("cuda"):
        yield library
    library.descending.value = 0


def held(emulation: Emulation, op: str, inputs: Inputs, dy: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
    """Check the errors of an op against its budgets, and that both orders of threads give the same bits."""
    frozen = options.pop("frozen", ())
    if dy is None:
        with torch.no_grad():
            dy = torch.randn_like(OPS[op].reference(**inputs, **options))
    runs = []
    for descending in (0, 1):
        emulation.descending.value = descending
        runs.append(value_and_gradients(OPS[op].function, inputs, dy, frozen=frozen, **options))
    ours = runs[0]
    assert not [name for name, value in ours.items() if not torch.equal(value, runs[1][name])]
    if ours["y"].dtype == FP64:
        # An oracle of the same dtype must use another algorithm.
        check(op, inputs, frozen=frozen, **options)
        return ours
    plain = value_and_gradients(OPS[op].reference, inputs, dy, frozen=frozen, **options)
    wide = {name: None if tensor is None else tensor.double() for name, tensor in inputs.items()}
    oracle = value_and_gradients(OPS[op].reference, wide, dy, frozen=frozen, **options)
    assert {name: (value.shape, value.dtype) for name, value in ours.items() if value.numel()} == {
        name: (value.shape, value.dtype) for name, value in plain.items() if value.numel()
    }
    errors = {
        name: (relative_error(value, oracle[name]), error_budget(plain[name], oracle[name]))
        for name, value in ours.items()
        if value.numel() >= MIN_ELEMENTS
    }
    assert errors
    # Written so that a NaN fails.
    assert not {name: pair for name, pair in errors.items() if not pair[0] <= pair[1]}
    return ours


def strided(tensor: Tensor) -> Tensor:
    """The same ``(B, D, L)``, as a slice of another tensor in the order (L, D, B), full of NaN elsewhere."""
    batch, channels, length = tensor.shape
    storage = torch.full((length + 3, 2 * channels, batch + 1), float("nan"), dtype=tensor.dtype)
    return storage.permute(2, 1, 0)[1:, 1::2, 3:].copy_(tensor)


# One length for each transform that fits on chip. The other options vary with it. A two-sided filter has up to 2L - 1
# taps, which may be more than the points of the transform.
ROWS = [
    (1, {"batch": 3, "channels": 40}),
    (31, {"dtype": BF16, "batch": 3, "channels": 17}),
    (256, {"taps": 33, "causal": False}),
    (257, {"pre_gate": False, "dtype": FP16}),
    (700, {"causal": False, "taps": 1399}),
    (1000, {"taps": 999, "dtype": BF16, "filter_dtype": BF16}),
    (1280, {"taps": 2559, "post_gate": False, "causal": False}),
    (1500, {"skip": False}),
    (2000, {"batch": 5, "channels": 1}),
    (2500, {"dtype": FP16, "taps": 4998, "causal": False}),
    (3000, {}),
    (4096, {"taps": 4095, "causal": False, "channels": 1}),
    (5000, {"pre_gate": False, "post_gate": False, "skip": False, "channels": 1}),
    (6144, {"batch": 1}),
    (8191, {"dtype": BF16, "taps": 16381, "batch": 1, "channels": 1, "causal": False}),
]


@pytest.mark.slow
@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize(("length", "options"), ROWS, ids=[str(length) for length, _ in ROWS])
def test_fftconv_on_chip(emulation: Emulation, length: int, options: dict[str, Any]) -> None:
    options = dict(options)
    causal = options.pop("causal", True)
    inputs = fftconv_inputs(options.pop("batch", 2), options.pop("channels", 2), length, **options)
    held(emulation, "fftconv", inputs, causal=causal)


# One length for each transform of columns, and for each transform of rows after it.
PASSES = [
    (8193, {"dtype": BF16, "taps": 77, "causal": False, "batch": 3, "channels": 3}),
    (12000, {"taps": 23999, "batch": 2, "channels": 2, "causal": False}),
    (16384, {"dtype": FP16, "batch": 2, "taps": 16383, "filter_dtype": FP16}),
    (20479, {"taps": 40956, "pre_gate": False, "causal": False}),
    (24001, {"post_gate": False, "batch": 2}),
    (49152, {"skip": False}),
    (98303, {"dtype": BF16, "causal": False}),
    (131073, {"pre_gate": False, "post_gate": False}),
    (390_001, {"dtype": BF16}),
    (1_000_002, {"dtype": BF16}),
    (1_572_863, {"pre_gate": False, "post_gate": False, "skip": False}),
]


@pytest.mark.slow
@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize(("length", "options"), PASSES, ids=[str(length) for length, _ in PASSES])
def test_fftconv_in_passes(
    emulation: Emulation, length: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyena_kernels.backends.cuda import fftconv as adapter

    options = dict(options)
    causal, batch = options.pop("causal", True), options.pop("batch", 1)
    # One or two channels at a time, or one or two batch entries.
    monkeypatch.setattr(adapter, "PASSES_SCRATCH_BYTES", 5 * adapter._row_bytes(length) * 5 // 4)
    held(emulation, "fftconv", fftconv_inputs(batch, options.pop("channels", 1), length, **options), causal=causal)


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "length", "taps"), [(FP32, 9001, 9001), (BF16, 8193, 77), (FP64, 300, 300)])
def test_fftconv_by_cufft(
    emulation: Emulation, dtype: torch.dtype, length: int, taps: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyena_kernels.backends.cuda import fftconv as adapter

    # As if the signal were too long for passes.
    monkeypatch.setattr(adapter, "_passes_points", lambda *_: 0)
    # Slices of one or two rows.
    monkeypatch.setattr(sizes, "tile", lambda batch, channels, *rest: (2, 1))
    if not causal and taps == length:
        taps = 2 * length - 1
    held(emulation, "fftconv", fftconv_inputs(3, 40 if dtype == FP64 else 2, length, taps, dtype=dtype), causal=causal)


# Within one span of positions, in two, and beyond the transform on chip; of two rows each and of one.
@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize(
    ("length", "options"),
    [
        (1, {}),
        (61, {"batch": 1}),
        (700, {"dtype": BF16, "causal": False, "taps": 33}),
        (1025, {"dtype": FP16, "pre_gate": False}),
        (8193, {"batch": 1, "post_gate": False}),
        (300, {"dtype": FP64}),
    ],
    ids=str,
)
def test_gradient_of_the_skip_is_rounded_once(emulation: Emulation, length: int, options: dict[str, Any]) -> None:
    options = dict(options)
    causal = options.pop("causal", True)
    inputs = fftconv_inputs(options.pop("batch", 2), 3, length, **options)
    dy = torch.randn(inputs["u"].shape).to(inputs["u"].dtype)
    frozen = [*inputs.keys() - {"D"}]
    runs = []
    for descending in (0, 1):
        emulation.descending.value = descending
        runs.append(value_and_gradients(fftconv, inputs, dy, frozen=frozen, causal=causal)["dD"])
    factors = [tensor for name, tensor in inputs.items() if name in ("u", "pre_gate", "post_gate")]
    product = dy.double()
    for factor in factors:
        product = product if factor is None else product * factor
    exact = product.sum(dim=(0, 2))
    # Sums of float64 in other orders differ in their last bits.
    torch.testing.assert_close(runs[0], exact.to(runs[0].dtype), rtol=1e-13 if length == 300 else 0, atol=0)
    assert torch.equal(*runs)


@pytest.mark.parametrize("length", [200, 8200])
@pytest.mark.parametrize("wanted", ["u", "k", "D", "pre_gate", "post_gate"])
def test_one_gradient_of_fftconv_alone(emulation: Emulation, wanted: str, length: int) -> None:
    inputs = fftconv_inputs(2, 3, length)
    dy = torch.randn(2, 3, length)
    everything = value_and_gradients(fftconv, inputs, dy)
    alone = value_and_gradients(fftconv, inputs, dy, frozen=[name for name in inputs if name != wanted])
    assert alone.keys() == {"y", f"d{wanted}"}
    torch.testing.assert_close(alone[f"d{wanted}"], everything[f"d{wanted}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [300, 8200])
def test_fftconv_of_strided_tensors(emulation: Emulation, length: int) -> None:
    inputs = fftconv_inputs(2, 2, length, dtype=BF16)
    for name in ("u", "pre_gate", "post_gate"):
        inputs[name] = strided(inputs[name])
    inputs["k"] = inputs["k"].t().contiguous().t()
    inputs["D"] = torch.stack((inputs["D"], inputs["D"]), dim=1)[:, 0]
    held(emulation, "fftconv", inputs, strided(torch.randn(2, 2, length).to(BF16)))


def test_batch_in_chunks(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyena_kernels.backends.cuda import device

    # Chunks of 3 and 2 batch entries. The sums are of some channels at a time.
    monkeypatch.setattr(device, "_EMULATED_PROCESSORS", 1)
    monkeypatch.setattr(sizes, "SCRATCH_BYTES_ELSEWHERE", 4 * 200 * 2 * 3)
    held(emulation, "fftconv", fftconv_inputs(5, 20, 200))


@pytest.mark.parametrize(
    ("shared_kb", "plans"), [(227, (1, 2)), (163, (1, 2)), (99, (1, 2)), (64, (1, 2)), (48, (1, 2))]
)
def test_plans_fit_the_shared_memory_of_the_device(
    emulation: Emulation, shared_kb: int, plans: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyena_kernels.backends.cuda import device, fftconv as adapter

    monkeypatch.setattr(device, "_EMULATED_SHARED_BYTES", shared_kb << 10)
    longest = {"forward": 0, "backward": 0}
    for length in (200, 1000, 2048, 3072, 4096, 5000, 6144, 8192):
        u, k = torch.empty(4, 600, length), torch.empty(600, length)
        for direction in longest:
            plan = adapter._plan(u, k, backward=direction == "backward", wants_filter=direction == "backward")
            spectra = 0 if direction == "forward" else 1 if plan.chunk == 1 else 2
            if plan.passes:
                assert adapter.ops.fftconv_passes_bytes(plan.points, spectra) <= shared_kb << 10
            elif plan.points:
                longest[direction] = length
                assert adapter.ops.fftconv_row_bytes(plan.points, spectra) <= shared_kb << 10
    assert (
        longest
        == {
            227: {"forward": 8192, "backward": 8192},
            163: {"forward": 8192, "backward": 8192},
            99: {"forward": 8192, "backward": 5000},
            64: {"forward": 6144, "backward": 3072},
            48: {"forward": 5000, "backward": 2048},
        }[shared_kb]
    )


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize(
    ("channels", "length", "taps"), [(40, 1, 3), (33, 63, 1), (40, 64, 2), (70, 131, 8), (8, 300, 3)]
)
def test_short_conv(emulation: Emulation, dtype: torch.dtype, channels: int, length: int, taps: int) -> None:
    held(emulation, "short_conv", short_conv_inputs(2, channels, length, taps, dtype=dtype, bias=taps != 2))


@pytest.mark.parametrize("layout", ["channel-last", "strided", "expanded"])
def test_short_conv_of_strided_tensors(emulation: Emulation, layout: str) -> None:
    inputs = short_conv_inputs(2, 40, 131, dtype=BF16)
    dy = torch.randn(2, 40, 131).to(BF16)
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "channel-last": lambda tensor: tensor.transpose(1, 2).contiguous().transpose(1, 2),
        "strided": strided,
        "expanded": lambda tensor: tensor[:1].expand_as(tensor),
    }
    inputs["x"] = change[layout](inputs["x"])
    held(emulation, "short_conv", inputs, change[layout](dy))


@pytest.mark.slow
@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("channels", "length", "taps", "spans"), [(8, 8, 3, 1), (40, 600, 4, 1), (24, 72, 1, 1), (104, 2088, 2, 132)]
)
def test_short_conv_in_patches(
    emulation: Emulation,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    channels_last: bool,
    channels: int,
    length: int,
    taps: int,
    spans: int,
) -> None:
    from hyena_kernels.backends.cuda import device

    monkeypatch.setattr(device, "_EMULATED_PROCESSORS", spans)
    inputs = short_conv_inputs(2, channels, length, taps, dtype=dtype)
    if channels_last:
        inputs["x"] = inputs["x"].transpose(1, 2).contiguous().transpose(1, 2)
    held(emulation, "short_conv", inputs)
    # Results are in the order of x. Forward, patches go from any order to channel-first ones only.
    forward = "short_conv_forward_kernel" if channels_last else "short_conv_patches_kernel"
    assert emulation.launches().keys() == {forward, "short_conv_patches_backward_kernel"}


def test_tiles_in_spans(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyena_kernels.backends.cuda import device

    # Three tiles per block.
    monkeypatch.setattr(device, "_EMULATED_PROCESSORS", 1)
    held(emulation, "short_conv", short_conv_inputs(2, 40, 700))
    held(emulation, "hyena_mixer", hyena_mixer_inputs(2, 700, 40))


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize(
    ("length", "channels", "options"),
    [
        (1, 40, {}),
        (131, 40, {"dtype": BF16}),
        (200, 8, {"dtype": FP16, "order": 3, "short_taps": 4}),
        (65, 33, {"taps": 9, "bias": False, "skip": False}),
        (130, 3, {"order": 4, "short_taps": 1}),
    ],
    ids=str,
)
def test_hyena_mixer(emulation: Emulation, length: int, channels: int, options: dict[str, Any]) -> None:
    held(emulation, "hyena_mixer", hyena_mixer_inputs(2, length, channels, **options))
    # At any length, temporary rows begin at multiples of 16 bytes.
    patches = {name for name in emulation.launches() if "_patches_" in name}
    assert len(patches) == (3 if channels % 8 == 0 else 0)


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
@pytest.mark.parametrize(
    ("op", "order"), [("hyena_mixer", 2), ("hyena_mixer", 3), ("fftconv", 2), ("short_conv", 2)], ids=str
)
def test_products_need_not_fit_the_dtype(op: str, order: int, dtype: torch.dtype) -> None:
    assert_products_need_not_fit(op, dtype, order)


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 3])
def test_hyena_mixer_by_cufft(emulation: Emulation, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyena_kernels.backends.cuda import fftconv as adapter

    monkeypatch.setattr(adapter, "_passes_points", lambda *_: 0)
    held(emulation, "hyena_mixer", hyena_mixer_inputs(2, 9001, 2, order=order, dtype=BF16))


def test_hyena_mixer_in_slices(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyena_kernels.backends.cuda import mixer as adapter

    monkeypatch.setattr(adapter, "SCRATCH_BYTES", 1)
    inputs = hyena_mixer_inputs(2, 70, 70, dtype=BF16)
    inputs["x"] = inputs["x"].transpose(1, 2).contiguous().transpose(1, 2)
    held(emulation, "hyena_mixer", inputs)


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize(
    ("length", "options"),
    [(1, {}), (131, {}), (64, {"layers": 0, "window": False}), (100, {"width": 100, "layers": 1}), (70, {"width": 32})],
    ids=str,
)
def test_implicit_filter(emulation: Emulation, length: int, options: dict[str, Any]) -> None:
    inputs = implicit_filter_inputs(70, length, **options)
    inputs["w_out"] = inputs["w_out"].t().contiguous().t()
    held(emulation, "implicit_filter", inputs, frozen=("z", "t", "freq") if length == 1 else ())


def test_a_nan_reaches_no_other_row(emulation: Emulation) -> None:
    inputs = fftconv_inputs(3, 10, 200)
    dy = torch.randn(3, 10, 200)
    clean = value_and_gradients(fftconv, inputs, dy)
    inputs["u"][1, 2, 100] = float("nan")
    for name, value in value_and_gradients(fftconv, inputs, dy).items():
        others = torch.ones(value.shape[:2] if value.dim() == 3 else value.shape[:1], dtype=torch.bool)
        others[(1, 2) if value.dim() == 3 else 2] = False
        assert torch.equal(value[others], clean[name][others]), name


def test_a_nan_reaches_no_more_positions_than_there_are_taps(emulation: Emulation) -> None:
    inputs = short_conv_inputs(1, 3, 100)
    inputs["x"][0, 1, 50] = float("nan")
    y = value_and_gradients(OPS["short_conv"].function, inputs)["y"]
    assert y.isnan().nonzero().tolist() == [[0, 1, 50], [0, 1, 51], [0, 1, 52]]


def test_empty_tensors(emulation: Emulation) -> None:
    for batch, channels in ((0, 3), (2, 0)):
        results = value_and_gradients(fftconv, fftconv_inputs(batch, channels, 50), torch.ones(()))
        assert not any(value.any() for value in results.values())
        inputs = hyena_mixer_inputs(batch, 50, channels)
        results = value_and_gradients(hyena_mixer, inputs, torch.ones(()))
        assert not any(value.any() for value in results.values())
        results = value_and_gradients(OPS["short_conv"].function, short_conv_inputs(batch, channels, 9), torch.ones(()))
        assert not any(value.any() for value in results.values())


def test_float64_is_refused_where_there_are_no_kernels(emulation: Emulation) -> None:
    for op, inputs in (
        ("short_conv", short_conv_inputs(1, 2, 9, dtype=FP64)),
        ("hyena_mixer", hyena_mixer_inputs(1, 9, 2, dtype=FP64)),
        ("implicit_filter", implicit_filter_inputs(2, 9, dtype=FP64)),
    ):
        with pytest.raises(backend.BackendError, match="no float64 kernels"):
            OPS[op].function(**inputs)
    with pytest.raises(backend.BackendError, match="up to 128"):
        OPS["implicit_filter"].function(**implicit_filter_inputs(2, 9, width=129))


def test_patches_read_nothing_behind_a_row(emulation: Emulation) -> None:
    """A row ends at the end of memory, in the middle of a patch. A child process that reads on crashes."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + page), page, 0) == 0
    # Patches need multiples of 16 bytes.
    for length in (4, 12, 124):
        x = torch.frombuffer(memory, dtype=FP32, count=length, offset=page - 4 * length)
        x, weight = x.view(1, 1, length), torch.ones(1, 3)
        if (child := os.fork()) == 0:
            try:
                OPS["short_conv"].function(x, weight)
                # Not through autograd, which runs backward in another thread.
                needs = [True, True, False, False]
                torch.ops.hyena_kernels.short_conv_bwd(x, x, weight, None, None, False, needs, "cuda")
                os._exit(0)
            finally:
                # An error must not go on in a copy of the test run.
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0, length


@pytest.mark.slow
def test_resource_table_has_the_launches(emulation: Emulation) -> None:
    """hyena_kernels/testing/resources/cuda.py lists the threads and shared memory of the launches."""
    held(emulation, "fftconv", fftconv_inputs(2, 2, 100, dtype=FP64))
    # Rows and channels for which patches are not used.
    held(emulation, "short_conv", short_conv_inputs(1, 7, 21))
    held(emulation, "hyena_mixer", hyena_mixer_inputs(2, 20, 7))
    held(emulation, "implicit_filter", implicit_filter_inputs(8, 20))
    held(emulation, "implicit_filter", implicit_filter_inputs(8, 20, width=128))
    launches = emulation.launches()
    for transform in _resources._TRANSFORMS:
        launches.pop(f"{transform}_kernel", None)
    assert launches == {
        kernel: {(threads, shared) for shared in forms.values()}
        for kernel, (threads, forms) in _resources.KERNELS.items()
    }


def test_resource_table_has_the_launches_of_patches(emulation: Emulation) -> None:
    for dtype in (FP32, BF16, FP16):
        for channels_last in (False, True):
            # The projections of the mixer are stored channel-last.
            if channels_last:
                held(emulation, "hyena_mixer", hyena_mixer_inputs(1, 64, 16, dtype=dtype))
            else:
                held(emulation, "short_conv", short_conv_inputs(1, 16, 64, dtype=dtype))
            launches = emulation.launches()
            assert launches.keys() & _resources.KERNELS.keys() <= {"fftconv_skip_kernel"}
            inner = "float32" if channels_last and dtype != FP32 else ""
            for kernel in _resources._PATCHES if channels_last else _resources._PATCHES[:2]:
                pairs = (False, True) if channels_last and kernel.endswith("backward") else (False,)
                forms = [_resources.PatchForm(kernel, str(dtype), channels_last, pair, inner) for pair in pairs]
                assert launches[f"{kernel}_kernel"] == {(form.threads, form.shared_bytes) for form in forms}


def test_resource_table_has_the_shared_memory_of_rows(library: Emulation) -> None:
    from hyena_kernels.backends.cuda.schemas import ops

    source = (_build.CSRC / "cuda" / "row_plans.cuh").read_text()
    plans = re.findall(r"using Rows(\d+) = RowPlan<(\d+), (\d+), ([\d, ]+)>", source)
    assert len(plans) == 13
    for points, threads, rows, radices in plans:
        plan = _resources.RowPlan(int(threads), int(rows), tuple(map(int, radices.split(", "))))
        assert plan.points == int(points)
        for spectra in (0, 1, 2):
            assert plan.shared_bytes(spectra) == ops.fftconv_row_bytes(int(points), spectra)


def test_longest_transform_is_where_the_choice_of_backends_has_it(library: Emulation) -> None:
    from hyena_kernels.backends.cuda.schemas import ops

    longest = extension.MAX_FAST_LENGTH
    assert ops.fftconv_passes_points(longest) == longest
    assert ops.fftconv_passes_points(longest + 1) == 0
    assert extension.slower("fftconv_fwd", [torch.empty(1, 1, longest, device="meta")]) is None
    assert "up to" in extension.slower("hyena_mixer_bwd", [torch.empty(1, longest + 1, 3, device="meta")])


@pytest.mark.slow
def test_resource_table_has_the_shared_memory_of_passes(emulation: Emulation) -> None:
    """The emulation refuses a block that leaves its shared memory, so the shared memory of the launches is enough."""
    from hyena_kernels.backends.cuda.schemas import ops

    source = (_build.CSRC / "cuda" / "fftconv_passes.cu").read_text()
    plans = re.findall(r"using Columns(\d+) = ColumnPlan<(\d+), (\d+), ([\d, ]+)>", source)
    assert len(plans) == 8
    for points, threads, columns, radices in plans:
        plan = _resources.RowPlan(int(threads), int(columns), tuple(map(int, radices.split(", "))))
        assert plan.points == int(points)
        # Rows of 5120, for as many columns as there are here.
        length = 5120 * plan.points - 1
        if length > 200_000:
            continue
        held(emulation, "fftconv", fftconv_inputs(1, 1, length))
        assert ops.fftconv_passes_bytes(length + 1, 1) == ops.fftconv_row_bytes(5120, 1)
        launches = emulation.launches()
        for kernel in ("fftconv_columns_kernel", "fftconv_uncolumns_kernel"):
            assert (plan.threads * plan.rows, plan.column_bytes) in launches[kernel]


TOYS = """
#include "runtime.cuh"

namespace hyena {

void __attribute__((noinline)) rotate(float* y, bool barrier) {
  HYENA_DYNAMIC_SHARED(shared);
  float* values = reinterpret_cast<float*>(shared);
  values[threadIdx.x] = threadIdx.x;
  if (barrier) __syncthreads();
  y[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}

void overrun(float*, bool) {
  HYENA_DYNAMIC_SHARED(shared);
  reinterpret_cast<float*>(shared)[threadIdx.x + 1] = 0;
}

void diverge(float*, bool) {
  if (threadIdx.x == 0) __syncthreads();
}

}  // namespace hyena

extern "C" __attribute__((visibility("default"))) int toy(int which, float* y, bool barrier, int threads) {
  const auto kernel = which == 0 ? hyena::rotate : which == 1 ? hyena::overrun : hyena::diverge;
  try {
    HYENA_LAUNCH(kernel, 1, threads, threads * 4, nullptr, y, barrier);
    return 0;
  } catch (const std::runtime_error&) {
    return 1;
  }
}
"""


def test_emulation_finds_what_it_is_there_for(tmp_path: Path) -> None:
    source = tmp_path / "toys.cpp"
    source.write_text(TOYS)
    library = ctypes.CDLL(str(compile_library(tmp_path, [source])))
    descending = ctypes.c_int.in_dll(library, "hyena_emulation_descending")
    threads = 8
    results = {}
    for barrier in (True, False):
        for descending.value in (0, 1):
            y = torch.empty(threads)
            assert library.toy(0, ctypes.c_void_p(y.data_ptr()), barrier, threads) == 0
            results[barrier, descending.value] = y
    assert torch.equal(results[True, 0], torch.arange(1, threads + 1).remainder(threads).float())
    assert torch.equal(results[True, 0], results[True, 1])
    assert not torch.equal(results[False, 0], results[False, 1])
    assert results[False, 0].isnan().any(), "shared memory holds NaN before it is written"
    assert library.toy(1, None, False, threads) == 1
    assert library.toy(2, None, False, threads) == 1
    assert library.toy(0, None, False, 2048) == 1

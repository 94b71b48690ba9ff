"""Which backend runs, what forces one, and the message if it cannot run."""

from __future__ import annotations

import _thread
import asyncio
import importlib.util
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import hyena_kernels
from hyena_kernels import BackendError, backend, fftconv, long_conv, set_backend, use_backend
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.reasons import cuda_obstacle
from hyena_kernels.testing import OPS, far_field_conv_inputs, fftconv_inputs, hyena_mixer_far_inputs
from tests.hyena_kernels.helpers import small_fftconv as call

ROOT = Path(__file__).resolve().parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
# An op without a derivative has no directions, and neither has one that is its own derivative.
DIRECTIONS = {op: [op] if (op, "torch") in backend._implementations else [f"{op}_fwd", f"{op}_bwd"] for op in OPS}
REGISTERED = [name for names in DIRECTIONS.values() for name in names]
# The backends that run on every machine without a compiled extension. The others refuse CPU tensors.
ABSENT = ["triton", "cuda"]


pytestmark = pytest.mark.usefixtures("unforced")


@pytest.mark.parametrize("name", ABSENT)
def test_an_explicit_choice_raises_with_the_reason_and_never_falls_back(name: str, recorded: list[str]) -> None:
    reason = f"backend '{name}' was asked for and cannot run fftconv_fwd: runs on CUDA devices only"
    with pytest.raises(BackendError, match=re.escape(reason)):
        call(name)
    with use_backend(name), pytest.raises(BackendError, match=re.escape(reason)):
        call()
    set_backend(name)
    with pytest.raises(BackendError, match=re.escape(reason)):
        call()
    assert recorded == []


@pytest.mark.parametrize("name", ABSENT)
@pytest.mark.parametrize("op", OPS)
def test_every_op_refuses_a_backend_that_cannot_run(op: str, name: str) -> None:
    for registered in DIRECTIONS[op]:
        with pytest.raises(BackendError, match=f"cannot run {registered}"):
            backend.resolve(registered, CPU, name)
        assert backend.resolve(registered, CPU, "torch") == "torch"


def test_a_backend_without_an_implementation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(backend._implementations, ("fftconv_fwd", "cpp"), raising=False)
    with pytest.raises(BackendError, match=f"cannot run fftconv_fwd: hyena_kernels {hyena_kernels.__version__} has no"):
        call("cpp")
    # Without a request, the next one in the order of preference runs.
    assert backend.resolve("fftconv_fwd", CPU) == "torch"


@pytest.mark.usefixtures("unforced")
def test_a_backend_that_is_forced_for_all_ops_leaves_out_those_it_does_not_have(recorded: list[str]) -> None:
    """A model runs under ``use_backend("cpp")``, though not all of its ops have C++ kernels."""
    ids, weight = torch.tensor([1, 0]), torch.randn(2, 3, requires_grad=True)
    with use_backend("cpp"):
        hyena_kernels.embedding(ids, weight).sum().backward()
    set_backend("cuda")
    hyena_kernels.embedding(ids, weight)
    assert recorded == ["embedding_fwd", "embedding_bwd", "embedding_fwd"]
    assert re.search(r"^  embedding_fwd +torch$", backend.describe(), re.MULTILINE)
    with pytest.raises(
        BackendError, match=r"'cuda' was asked for and cannot run embedding_fwd: .*has no implementation"
    ):
        hyena_kernels.embedding(ids, weight, backend="cuda")
    with (
        use_backend("triton"),
        pytest.raises(BackendError, match="'triton' was asked for and cannot run embedding_fwd"),
    ):
        hyena_kernels.embedding(ids, weight)


def test_the_fastest_that_can_run_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    marker = torch.full((1, 2, 8), 7.0)
    monkeypatch.setitem(backend._implementations, ("fftconv_fwd", "cpp"), lambda *args: marker)
    assert torch.equal(call(), marker)
    assert not torch.equal(call("torch"), marker)


def test_a_device_without_backends_of_its_own_runs_torch() -> None:
    assert backend.resolve("fftconv_fwd", torch.device("xpu")) == "torch"


def test_unknown_names_are_refused_where_they_are_given() -> None:
    expected = "unknown backend 'fast': choose one of 'triton', 'cuda', 'cpp', 'torch'"
    with pytest.raises(ValueError, match=expected):
        set_backend("fast")
    with pytest.raises(ValueError, match=expected), use_backend("fast"):
        pytest.fail("the block must not run")
    with pytest.raises(ValueError, match=expected):
        call("fast")
    assert backend.requested(None) == backend.AUTO


def test_the_argument_goes_before_what_is_forced() -> None:
    set_backend("triton")
    assert backend.requested("torch") == "torch"
    assert call("torch").shape == (1, 2, 8)


def test_use_backend_ends_with_its_block() -> None:
    set_backend("torch")
    with use_backend("cuda"):
        assert backend.requested(None) == "cuda"
        with use_backend(None):
            assert backend.requested(None) == backend.AUTO
        assert backend.requested(None) == "cuda"
    assert backend.requested(None) == "torch"
    with pytest.raises(RuntimeError, match="inside"), use_backend("cuda"):
        raise RuntimeError("inside")
    assert backend.requested(None) == "torch"
    set_backend(None)
    assert backend.requested(None) == backend.AUTO


def test_overlapping_blocks_of_two_threads_do_not_mix() -> None:
    """A begins, B begins, A ends, B ends: each sees its own, and nothing stays."""
    steps = [threading.Event() for _ in range(3)]
    seen: dict[str, list[str]] = {"a": [], "b": []}

    def a() -> None:
        with use_backend("cuda"):
            steps[0].set()
            steps[1].wait(10)
            seen["a"].append(backend.requested(None))
        seen["a"].append(backend.requested(None))
        steps[2].set()

    def b() -> None:
        steps[0].wait(10)
        with use_backend("cpp"):
            steps[1].set()
            steps[2].wait(10)
            seen["b"].append(backend.requested(None))
        seen["b"].append(backend.requested(None))

    threads = [threading.Thread(target=target) for target in (a, b)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": ["cuda", "auto"], "b": ["cpp", "auto"]}
    assert backend.requested(None) == backend.AUTO


def test_blocks_of_tasks_that_end_in_another_order_leave_nothing_to_compiled_calls() -> None:
    async def task(name: str, steps: int) -> None:
        with use_backend(name):
            for _ in range(steps):
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(task("cuda", 1), task("cpp", 3))

    asyncio.run(both())
    assert backend._of_thread.block is None


def test_blocks_of_asyncio_tasks_do_not_mix() -> None:
    async def task(name: str) -> list[str]:
        seen = []
        with use_backend(name):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(backend.requested(None))
        return [*seen, backend.requested(None)]

    async def both() -> list[list[str]]:
        return await asyncio.gather(task("cuda"), task("cpp"))

    assert asyncio.run(both()) == [["cuda"] * 3 + ["auto"], ["cpp"] * 3 + ["auto"]]


def test_set_backend_holds_in_every_thread_and_a_block_in_its_own() -> None:
    set_backend("torch")
    with use_backend("cuda"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(backend.requested, None).result() == "torch"
        set_backend("cpp")
        assert backend.requested(None) == "cuda"
    assert backend.requested(None) == "cpp"


def test_threads_of_autograd_know_the_block() -> None:
    """On a GPU, checkpointing computes forward again in a thread that Python has not started."""

    def in_such_a_thread() -> str:
        found: list[str] = []
        done = threading.Event()

        def run() -> None:
            try:
                found.append(backend.requested(None))
            except BackendError as error:
                found.append(str(error))
            done.set()

        _thread.start_new_thread(run, ())
        assert done.wait(10)
        return found[0]

    assert in_such_a_thread() == "auto"
    with use_backend("cuda"):
        assert in_such_a_thread() == "cuda"
        with use_backend("cpp"):
            assert "name cpp and cuda" in in_such_a_thread()
    assert in_such_a_thread() == "auto"


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_call_follows_the_block(recorded: list[str]) -> None:
    def function(u: Tensor, k: Tensor) -> Tensor:
        return fftconv(u, k)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    u, k = torch.randn(1, 2, 8), torch.randn(2, 8)
    with use_backend("torch"):
        compiled(u, k)
    assert recorded == ["fftconv_fwd"]
    with use_backend("triton"), pytest.raises(BackendError, match="'triton' was asked for"):
        compiled(u, k)
    with use_backend("torch"):
        compiled(u, k)
    assert recorded == ["fftconv_fwd"] * 2


def test_backward_runs_on_the_backend_of_its_forward(recorded: list[str]) -> None:
    with use_backend("torch"):
        y = call()
    with use_backend("triton"):
        y.sum().backward()
    assert recorded == ["fftconv_fwd", "fftconv_bwd"]


def test_one_log_line_for_each_choice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        backend.describe()
        assert caplog.messages == []
        for _ in range(3):
            call().sum().backward()
    name = backend.resolve("fftconv_fwd", CPU)
    assert [line.partition(";")[0] for line in caplog.messages] == [
        f"fftconv_{suffix} on cpu runs on backend {name!r}" for suffix in ("fwd", "bwd")
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_the_line_says_why_the_preferred_backend_does_not_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(backend._implementations, ("fftconv_fwd", "cpp"), raising=False)
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        backend.resolve("fftconv_fwd", CPU)
    assert caplog.messages == [
        "fftconv_fwd on cpu runs on backend 'torch'; not on 'cpp': "
        f"hyena_kernels {hyena_kernels.__version__} has no implementation for it"
    ]
    caplog.clear()
    backend.register("fftconv_fwd", "cpp", torch.add)
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        backend.resolve("fftconv_fwd", CPU)
    assert caplog.messages == ["fftconv_fwd on cpu runs on backend 'cpp'"]


def no_pre_gate(u: object, k: object, D: object, pre_gate: object, *rest: object) -> str | None:
    return None if pre_gate is None else "takes no gates"


def test_arguments_that_a_backend_does_not_support_go_to_the_next_with_one_warning(
    caplog: pytest.LogCaptureFixture, recorded: list[str]
) -> None:
    marker = torch.full((1, 2, 8), 7.0)
    backend.register("fftconv_fwd", "cpp", lambda *args: marker, no_pre_gate)
    inputs = fftconv_inputs(1, 2, 8)
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        assert torch.equal(fftconv(inputs["u"], inputs["k"]), marker)
        for _ in range(2):
            fftconv(inputs["u"], inputs["k"], pre_gate=inputs["pre_gate"])
    assert recorded == ["fftconv_fwd"] * 2
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "fftconv_fwd on cpu runs on backend 'cpp'"),
        ("WARNING", "fftconv_fwd on cpu runs on backend 'torch'; not on 'cpp': takes no gates"),
    ]
    assert torch.equal(fftconv(inputs["u"], inputs["k"], backend="cpp"), marker)
    with pytest.raises(BackendError, match=r"^backend 'cpp' was asked for and cannot run fftconv_fwd: takes no gates$"):
        fftconv(inputs["u"], inputs["k"], pre_gate=inputs["pre_gate"], backend="cpp")
    # Without arguments there is nothing to refuse.
    assert backend.resolve("fftconv_fwd", CPU, "cpp") == "cpp"
    backend.register("fftconv_fwd", "cpp", lambda *args: marker)
    assert torch.equal(fftconv(inputs["u"], inputs["k"], pre_gate=inputs["pre_gate"]), marker)


def lazy_module(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """Write a module that no test has imported. Returns ``"module:function"``."""
    name = f"lazy_{folder.name}"
    (folder / f"{name}.py").write_text(f"print('imported')\n{body}")
    monkeypatch.syspath_prepend(folder)
    return f"{name}:forward"


def test_an_implementation_named_by_a_string_is_imported_on_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "import torch\ndef forward(inputs, causal):\n    return torch.full_like(inputs.u, 7.0)\n"
    backend.register("fftconv_fwd", "cpp", lazy_module(tmp_path, monkeypatch, body))
    assert not call("torch").eq(7).any()
    assert capsys.readouterr().out == ""
    for _ in range(2):
        assert call().eq(7).all()
    assert capsys.readouterr().out == "imported\n"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise OSError('libcuda.so.1:\\n not found')", "OSError: libcuda.so.1: not found"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("backward = None", "AttributeError: module 'lazy_.*' has no attribute 'forward'"),
    ],
    ids=["broken", "incomplete", "without the function"],
)
def test_an_implementation_that_cannot_be_imported_is_passed_over_with_one_warning(
    body: str,
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    recorded: list[str],
) -> None:
    place = lazy_module(tmp_path, monkeypatch, body)
    backend.register("fftconv_fwd", "cpp", place)
    failure = f"failed to import {place.partition(':')[0]}: {error}"
    assert re.search(f"^  cpp +not for fftconv_fwd: {failure}$", backend.describe(), re.MULTILINE)
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        for _ in range(2):
            call()
    assert recorded == ["fftconv_fwd"] * 2
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert re.fullmatch(f"fftconv_fwd on cpu runs on backend 'torch'; not on 'cpp': {failure}", record.message)
    with pytest.raises(BackendError, match=f"cannot run fftconv_fwd: {failure}$"):
        call("cpp")
    # A module that fails is not tried again at every call.
    assert capsys.readouterr().out == "imported\n"


def test_every_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "_installed", lambda: False)
    monkeypatch.delitem(backend._implementations, ("fftconv_fwd", "triton"))
    inputs = fftconv_inputs(1, 2, 8, dtype=torch.float64)
    expected = (
        "backend 'triton' was asked for and cannot run fftconv_fwd: runs on CUDA devices only, the tensors are on "
        "'cpu'; needs the package triton, which is not installed; "
        f"hyena_kernels {hyena_kernels.__version__} has no implementation for it; "
        "has no float64 kernels, the inputs are float64"
    )
    with pytest.raises(BackendError, match=f"^{re.escape(expected)}$"):
        fftconv(inputs["u"], inputs["k"], backend="triton")


@pytest.fixture
def asks_again() -> Iterator[None]:
    """What is known of the GPUs of this machine is forgotten before and after the test."""
    for cached in (cuda_obstacle, backend._capability):
        cached.cache_clear()
    yield
    for cached in (cuda_obstacle, backend._capability):
        cached.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, unforced: None, asks_again: None) -> None:
    """A machine with an A100 and no extension, and an implementation that does not import Triton."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    monkeypatch.setattr(triton_support, "_installed", lambda: True)
    backend.register("fftconv_fwd", "triton", torch.add, triton_support.fftconv)
    backend._implementations.pop(("fftconv_fwd", "cuda"), None)
    monkeypatch.setattr(backend, "RANKINGS", {})
    monkeypatch.setattr(backend, "UNMEASURED", backend.Ranking({}, "made up"))


@pytest.mark.usefixtures("gpu")
def test_triton_runs_first_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        assert backend.resolve("fftconv_fwd", CUDA) == "triton"
    assert caplog.messages == ["fftconv_fwd on cuda runs on backend 'triton'"]
    assert backend.resolve("fftconv_fwd", CUDA, "triton") == "triton"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (
            torch.cuda,
            "get_device_capability",
            lambda index: (7, 5),
            "needs compute capability 8.0, and some GPU has 7.5",
        ),
        (torch.cuda, "is_available", lambda: False, "runs on CUDA devices only, and torch sees none"),
        (
            torch.version,
            "hip",
            "7.1",
            f"is made for NVIDIA GPUs, and torch {torch.__version__} is built for ROCm",
        ),
        (triton_support, "_installed", lambda: False, "needs the package triton, which is not installed"),
    ],
    ids=["old GPU", "no GPU", "ROCm", "no triton"],
)
def test_a_machine_that_triton_does_not_run_on(
    owner: object,
    name: str,
    value: object,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(owner, name, value)
    # Without the warning of a missing library, which comes once a process.
    monkeypatch.setattr(backend, "_warned", True)
    with pytest.raises(BackendError, match=f"cannot run fftconv_fwd: {re.escape(reason)}$"):
        backend.resolve("fftconv_fwd", CUDA, "triton")
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        assert backend.resolve("fftconv_fwd", CUDA) == "torch"
    [record] = caplog.records
    assert record.levelname == "INFO"
    assert record.message.startswith(f"fftconv_fwd on cuda runs on backend 'torch'; not on 'triton': {reason}; ")


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_the_interpreter_takes_cpu_tensors_where_it_is_asked_for(
    value: str, monkeypatch: pytest.MonkeyPatch, recorded: list[str]
) -> None:
    monkeypatch.setattr(triton_support, "_installed", lambda: True)
    monkeypatch.delitem(backend._implementations, ("fftconv_fwd", "cpp"), raising=False)
    marker = torch.full((1, 2, 8), 7.0)
    backend.register("fftconv_fwd", "triton", lambda *args: marker, triton_support.fftconv)
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert "TRITON_INTERPRET is set" in backend.describe()
    assert torch.equal(call("triton"), marker)
    call()
    assert recorded == ["fftconv_fwd"]
    with pytest.raises(BackendError, match=r"the tensors are on 'xpu'"):
        backend.resolve("fftconv_fwd", torch.device("xpu"), "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "TRITON_INTERPRET" not in backend.describe()
    with pytest.raises(BackendError, match="runs on CUDA devices only"):
        call("triton")


# Packed rows need their lengths for it: test_varlen.py has them. A far field needs its blocks.
FAR_OPS = {"far_field_conv": far_field_conv_inputs, "hyena_mixer_far": hyena_mixer_far_inputs}
TRITON_OPS = [
    op
    for op in OPS
    if (f"{op}_fwd", "triton") in backend._implementations and not op.endswith("_varlen") and op not in FAR_OPS
]


@pytest.mark.parametrize("op", TRITON_OPS)
@pytest.mark.parametrize("suffix", ["fwd", "bwd"])
def test_triton_refuses_float64(op: str, suffix: str) -> None:
    supports = backend._supports[f"{op}_{suffix}", "triton"]
    single, double = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.float64)
    assert supports(single, single, single, None, True, [True, False]) is None
    for arguments in ((double, single, single), (single, double, single), (single, single, single, None, double)):
        assert supports(*arguments, True) == "has no float64 kernels, the inputs are float64"


@pytest.mark.parametrize("op", FAR_OPS)
@pytest.mark.parametrize("suffix", ["fwd", "bwd"])
def test_triton_refuses_float64_and_small_blocks_of_a_far_field(op: str, suffix: str) -> None:
    supports = backend._supports[f"{op}_{suffix}", "triton"]

    def reason(**options: Any) -> str | None:
        inputs = list(FAR_OPS[op](1, 40, 40, **options).values())
        arguments = [inputs[0], *inputs, [True] * len(inputs)] if suffix == "bwd" else inputs
        return supports(*arguments)

    assert reason(h=32) is None
    assert reason(h=32, dtype=torch.float64) == "has no float64 kernels, the inputs are float64"
    assert "takes blocks h of a power of two from 32" in reason(h=16)


def test_triton_refuses_wide_filter_networks() -> None:
    forward = backend._supports["implicit_filter_fwd", "triton"]
    backward = backend._supports["implicit_filter_bwd", "triton"]
    z, freq = torch.zeros(4, 5), torch.zeros(128)
    assert forward(z, freq) is None
    assert backward(z, z, freq) is None
    for arguments in ((z, torch.zeros(129)), (torch.zeros(4, 65), freq)):
        assert "width H up to 128 and up to 64 features E" in forward(*arguments)
        assert "width H up to 128" in backward(z, *arguments)


@pytest.mark.parametrize(("op", "shape"), [("fftconv", (1, 1, -1)), ("hyena_mixer", (1, -1, 3))])
@pytest.mark.parametrize("suffix", ["fwd", "bwd"])
def test_triton_refuses_what_is_too_long_for_its_transforms(op: str, suffix: str, shape: tuple[int, ...]) -> None:
    supports = backend._supports[f"{op}_{suffix}", "triton"]
    longest, longer = (torch.zeros(1, 1, 1).expand([n if s < 0 else s for s in shape]) for n in (2**24, 2**24 + 1))
    assert supports(longest) is None
    reason = "takes L up to 2^24 = 16777216, the inputs are longer"
    assert supports(longer) == reason
    assert supports(longer, longer.double()) == f"has no float64 kernels, the inputs are float64; {reason}"


def test_describe_names_every_op_and_backend() -> None:
    text = backend.describe()
    for name in REGISTERED:
        assert re.search(rf"^  {name} +(cpp|torch)$", text, re.MULTILINE)
    for name in ABSENT:
        assert re.search(rf"^  {name} +not( for fftconv_bwd, [^:]+)?: runs on CUDA devices only", text, re.MULTILINE)
    # The ops that have no kernels there have a line of their own.
    assert re.search(
        r"^  cuda +not for add_layer_norm_bwd, [^:]+: .* has no implementation for it$", text, re.MULTILINE
    )
    for part in (hyena_kernels.__version__, torch.__version__, "triton", "C++ extension", "no backend is forced"):
        assert part in text


def test_describe_tells_what_a_forced_backend_will_do() -> None:
    set_backend("triton")
    text = backend.describe()
    assert "backend 'triton' is forced" in text
    assert re.search(r"^  fftconv_fwd +raises: triton runs on CUDA devices only", text, re.MULTILINE)


def python(*arguments: str, forced: str = "", **variables: str) -> str:
    environment = {**os.environ, "HYENA_BACKEND": forced, **variables}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_module_prints_the_description_and_the_environment_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    # A fresh process has taken no route.
    monkeypatch.setattr(long_conv, "_decisions", {})
    printed = python("-m", "hyena_kernels", forced="triton")
    set_backend("triton")
    assert printed.strip() == backend.describe()


WRONG_ENVIRONMENT = """
import importlib, os, sys, torch, hyena_kernels
from hyena_kernels import backend, fftconv
assert "hyena_kernels.testing" not in sys.modules
u, k = torch.ones(1, 1, 2), torch.ones(1, 2)
print(backend.describe().splitlines()[-1])
try:
    fftconv(u, k)
except ValueError as error:
    print(error)
print(fftconv(u, k, backend="torch").flatten().round().tolist())
hyena_kernels.set_backend(None)
print(fftconv(u, k).flatten().round().tolist())
os.environ["HYENA_BACKEND"] = ""
print(importlib.reload(backend).requested(None))
"""


@pytest.mark.slow
def test_wrong_environment_is_named_and_can_be_overruled() -> None:
    described, error, *results = python("-c", WRONG_ENVIRONMENT, forced="fast").splitlines()
    assert error.startswith("unknown backend 'fast' in the environment variable HYENA_BACKEND: choose one of 'triton',")
    assert described == f"every op raises: {error}"
    assert results == ["[1.0, 2.0]", "[1.0, 2.0]", backend.AUTO]


WITHOUT_TRITON = """
import sys, torch
sys.modules["triton"] = None
import hyena_kernels
from hyena_kernels import backend, fftconv
assert "triton not installed" in backend.describe()
u, k = torch.ones(1, 1, 2, requires_grad=True), torch.ones(1, 2)
y = fftconv(u, k)
y.sum().backward()
print(y.flatten().round().tolist(), u.grad.flatten().round().tolist())
try:
    fftconv(u, k, backend="triton")
except hyena_kernels.BackendError as error:
    print(error)
"""


@pytest.mark.slow
def test_everything_else_works_without_triton() -> None:
    results, error = python("-c", WITHOUT_TRITON, TRITON_INTERPRET="1").splitlines()
    assert results == "[1.0, 2.0] [2.0, 1.0]"
    assert error == (
        "backend 'triton' was asked for and cannot run fftconv_fwd: needs the package triton, which is not installed"
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_every_op_has_triton_kernels_that_can_be_imported() -> None:
    described = python("-m", "hyena_kernels", forced="triton", TRITON_INTERPRET="1")
    # Of gelu there are none: PyTorch's kernel takes as long as reading and writing memory.
    for op in (op for op in REGISTERED if not op.startswith("gelu")):
        assert re.search(rf"^  {op} +triton$", described, re.MULTILINE), described


def test_the_fastest_backend_of_an_op_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_capability", lambda index: (9, 0))
    assert backend._order("fftconv_bwd", CUDA) == ("cuda", "triton", "torch")
    assert backend._order("short_conv_fwd", CUDA) == ("triton", "cuda", "torch")
    assert backend._order("fftconv_fwd", CPU) == backend.PREFERENCE["cpu"]
    assert backend._order("fftconv_fwd", torch.device("mps")) == ()
    monkeypatch.setattr(backend, "_refusals", lambda *args: ([], []))
    monkeypatch.setattr(backend, "_order", lambda *args: ("cuda", "torch"))
    for length, chosen in ((100, "cuda"), (backend.extension.MAX_FAST_LENGTH + 1, "torch")):
        u = torch.empty(1, 1, length, device="meta")
        assert backend._choose("fftconv_fwd", u.device, "auto", [u]) == chosen
        assert backend._choose("fftconv_fwd", u.device, "cuda", [u]) == "cuda"


@pytest.mark.usefixtures("gpu")
def test_each_gpu_has_the_ranking_of_its_capability_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities, asked = {0: (9, 0), 1: (8, 0), None: (9, 0)}, []

    def capability(index: int | None) -> tuple[int, int]:
        asked.append(index)
        return capabilities[index]

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    made = {(9, 0): backend.Ranking({"fftconv": "cuda"}, "measured here"), (8, 0): backend.Ranking({}, "reasoned")}
    monkeypatch.setattr(backend, "RANKINGS", made)
    for _ in range(3):
        assert backend._order("fftconv_fwd", torch.device("cuda", 0)) == ("cuda", "triton", "torch")
        assert backend._order("fftconv_fwd", torch.device("cuda", 1)) == ("triton", "cuda", "torch")
        assert backend._order("short_conv_fwd", torch.device("cuda", 0)) == ("triton", "cuda", "torch")
    assert asked == [0, 1]
    assert backend.ranking(torch.device("cuda")).basis == "measured here"


@pytest.mark.usefixtures("asks_again")
@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ((9, 0), "measured on an H200"),
        ((8, 0), "not measured on this GPU: taken from an H200 and the instructions of the kernels"),
        ((8, 6), "not measured on this GPU: taken from an H200"),
        ((12, 0), "not measured on this GPU: taken from an H200"),
    ],
)
def test_describe_tells_where_the_order_of_the_backends_is_from(
    capability: tuple[int, int], words: str, unforced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(name="some GPU", major=capability[0], minor=capability[1], total_memory=80 << 30)
    monkeypatch.setattr(torch.version, "hip", None)
    for name, value in {
        "is_available": True, "device_count": 1, "get_device_name": "some GPU", "get_device_capability": capability,
        "get_device_properties": properties,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    lines = backend.describe().splitlines()
    assert f"cuda:0 some GPU, sm_{capability[0]}{capability[1]}, 80 GiB" in lines
    assert f"cuda:0 order of the backends: {words}" in lines


@pytest.mark.usefixtures("asks_again")
@pytest.mark.parametrize("hip", [None, "7.1"])
def test_where_torch_sees_no_nvidia_gpu_no_capability_is_asked_for(
    hip: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: hip is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: pytest.fail("was asked for"))
    assert backend.ranking(CUDA) is backend.UNMEASURED


def test_a_length_at_which_triton_is_slower_goes_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyena_kernels.backends.triton import table

    monkeypatch.setattr(table, "TORCH_FASTER", {99: ((16, 31),), 164: (), 227: ()})
    for length, reason in ((15, None), (16, "was measured to be slower at this length"), (32, None)):
        assert backend.triton_support.slower("fftconv_fwd", [torch.zeros(1, 2, length)]) == reason
        assert backend.triton_support.slower("hyena_mixer_bwd", [torch.zeros(1, length, 2)]) == reason
        assert backend.triton_support.slower("short_conv_fwd", [torch.zeros(1, 2, length)]) is None
    monkeypatch.setattr(backend, "_refusals", lambda *args: ([], []))
    u = torch.zeros(1, 2, 16)
    monkeypatch.setitem(backend.PREFERENCE, "cpu", ("triton", "torch"))
    assert backend._choose("fftconv_fwd", u.device, "auto", [u]) == "torch"
    assert backend._choose("fftconv_fwd", u.device, "triton", [u]) == "triton"

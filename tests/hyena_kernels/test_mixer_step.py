"""``hyena_mixer_step`` against its formula in float64, and whole sequences of it against ``hyena_mixer``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd import forward_ad

from hyena_kernels import backend as _backend, hyena_mixer, hyena_mixer_step
from hyena_kernels.backends.torch import mixer_step as plain
from hyena_kernels.common.inputs import MixerStepInputs
from hyena_kernels.testing import (
    Inputs,
    check,
    error_budget,
    hyena_mixer_inputs,
    hyena_mixer_step_inputs,
    reference_hyena_mixer_step,
    relative_error,
)
from tests.hyena_kernels.helpers import assert_refused

pytestmark = pytest.mark.op("hyena_mixer_step")

every_backend = pytest.mark.usefixtures("each_backend")

STATES = ("short_state", "u")


def check_step(inputs: Inputs, **options: Any) -> None:
    check("hyena_mixer_step", inputs, gradients=False, **options)


def copied(inputs: Inputs) -> Inputs:
    return {name: None if tensor is None else tensor.clone() for name, tensor in inputs.items()}


def ran(inputs: Inputs, **options: Any) -> Inputs:
    """The result, and copies of the states after it."""
    inputs = copied(inputs)
    return {"y": hyena_mixer_step(**inputs, **options), **{name: inputs[name] for name in STATES}}


def assert_equal(found: Inputs, expected: Inputs) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value.nan_to_num(9e9), expected[name].nan_to_num(9e9)), name


# The first and the last position of a window, its middle, and more and fewer rows than a kernel takes at a time.
@every_backend
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize(
    ("batch", "channels", "t"), [(16, 40, 0), (40, 5, 1), (3, 67, 63), (1, 130, 64), (2, 64, 90), (3, 65, 96)]
)
def test_error_is_within_budget(batch: int, channels: int, t: int, order: int) -> None:
    check_step(hyena_mixer_step_inputs(batch, 97, channels, t=t, order=order))


@every_backend
@pytest.mark.parametrize("window", [1, 2, 16, 128, 1024])
def test_windows(window: int) -> None:
    for t in (0, 15, 160, 299):
        check_step(hyena_mixer_step_inputs(3, 300, 50, t=t), window=window)


@every_backend
@pytest.mark.parametrize("short_taps", [1, 2, 5, 8])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_bias_and_short_filters(dtype: torch.dtype, bias: bool, short_taps: int) -> None:
    for filter_dtype in {dtype, torch.float32}:
        options = {"dtype": dtype, "filter_dtype": filter_dtype, "bias": bias, "short_taps": short_taps}
        check_step(hyena_mixer_step_inputs(4, 40, 70, **options))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_of_sixteen_bits_need_not_fit(dtype: torch.dtype) -> None:
    inputs = hyena_mixer_step_inputs(8, 40, 32, dtype=dtype, filter_dtype=torch.float32)
    inputs["x"] = 300 + inputs["x"]
    inputs["short_weight"] = torch.zeros(96, 3)
    inputs["short_weight"][:, -1] = 1
    # The first gate takes the product of the others, near 90000, back into the range of float16.
    inputs["short_weight"][:32, -1] = 1e-4
    wide = {name: tensor.double() if name in ("x", "short_state") else tensor for name, tensor in inputs.items()}
    wide |= {name: inputs[name].double() for name in ("u", "future", "taps")}
    exact = reference_hyena_mixer_step(**wide)[0]
    assert relative_error(ran(inputs)["y"], exact) <= error_budget(exact.to(dtype), exact)


@every_backend
@pytest.mark.parametrize(("order", "short_taps", "window"), [(2, 3, 8), (2, 1, 64), (3, 4, 16), (4, 2, 1)])
def test_steps_give_what_the_mixer_gives(order: int, short_taps: int, window: int) -> None:
    """A sequence, step by step. What finished windows add to later outputs is summed directly."""
    length, channels = 70, 3
    whole = hyena_mixer_inputs(2, length, channels, order=order, short_taps=short_taps, dtype=torch.float64)
    taps = whole["k"].clone()
    taps[..., 0] += whole["D"]
    short_state = torch.zeros(2, (order + 1) * channels, short_taps - 1, dtype=torch.float64)
    u = torch.full((order - 1, 2, channels, length), float("nan"), dtype=torch.float64)
    future = torch.zeros_like(u)
    steps = []
    for t in range(length):
        if t and t % window == 0:
            for s in range(t - window, t):
                future[..., t:] += u[..., s : s + 1] * taps[:, None, :, t - s : length - s]
        args = (whole["x"][:, t], short_state, whole["short_weight"], whole["short_bias"], u, future, taps)
        steps.append(hyena_mixer_step(*args, t if t % 2 else torch.tensor(t), window=window))
    torch.testing.assert_close(torch.stack(steps, dim=1), hyena_mixer(**whole), rtol=1e-12, atol=1e-12)


@every_backend
def test_a_number_and_a_tensor_give_the_same_bits() -> None:
    inputs = hyena_mixer_step_inputs(2, 100, 20, t=77)
    expected = ran(inputs)
    del inputs["t"]
    for t in (77, np.int32(77)):
        assert_equal(ran(inputs, t=t), expected)


@every_backend
def test_only_the_states_change_and_u_at_t_alone() -> None:
    inputs = hyena_mixer_step_inputs(2, 100, 20, t=70, order=3)
    after = copied(inputs)
    hyena_mixer_step(**after)
    changed = {name for name in inputs if not torch.equal(after[name].nan_to_num(9), inputs[name].nan_to_num(9))}
    assert changed == set(STATES)
    assert not after["u"][..., 70].isnan().any()
    after["u"][..., 70] = inputs["u"][..., 70]
    assert torch.equal(after["u"].nan_to_num(9), inputs["u"].nan_to_num(9))
    rolled = torch.cat([inputs["short_state"], inputs["x"][..., None]], dim=2)[..., 1:]
    assert torch.equal(after["short_state"], rolled)


@every_backend
def test_positions_outside_of_the_window_are_not_read() -> None:
    inputs = hyena_mixer_step_inputs(2, 100, 20, t=70)
    expected = ran(inputs)["y"]
    for name, kept in (("u", slice(64, 70)), ("future", slice(70, 71)), ("taps", slice(0, 7))):
        values = inputs[name][..., kept].clone()
        inputs[name].fill_(float("nan"))
        inputs[name][..., kept] = values
    assert torch.equal(ran(inputs)["y"], expected)


@every_backend
def test_nan_stays_in_its_channel_and_batch_entry() -> None:
    inputs = hyena_mixer_step_inputs(3, 80, 20, t=40)
    expected = ran(inputs)["y"]
    inputs["x"][1, 20 + 7] = float("nan")
    inputs["u"][0, 2, 3, 20] = float("inf")
    found = ran(inputs)["y"]
    hit = torch.zeros(3, 20, dtype=torch.bool)
    hit[1, 7] = hit[2, 3] = True
    assert torch.equal(found.isfinite(), ~hit)
    assert torch.equal(found[~hit], expected[~hit])


def turned(tensor: Tensor) -> Tensor:
    """The same values with the strides in the opposite order, every other element of its memory."""
    spread = tensor.repeat_interleave(2, dim=0)
    return spread.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))[::2]


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    inputs = hyena_mixer_step_inputs(3, 80, 70, t=50, order=3, dtype=dtype)
    expected = ran(inputs)
    views = {name: turned(tensor) if tensor.dim() else tensor for name, tensor in inputs.items()}
    assert not any(tensor.is_contiguous() for name, tensor in views.items() if tensor.dim())
    y = hyena_mixer_step(**views)
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected["y"], rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    for name in STATES:
        torch.testing.assert_close(views[name], expected[name], rtol=1e-5, atol=1e-5, equal_nan=True)


@every_backend
def test_runs_and_threads_give_the_same_bits() -> None:
    inputs = hyena_mixer_step_inputs(20, 80, 300, t=60)
    before, first = torch.get_num_threads(), None
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = ran(inputs)
            assert_equal(found, first or found)
            first = found
    finally:
        torch.set_num_threads(before)


@every_backend
@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written() -> None:
    for batch, channels, t in ((1, 1, 0), (3, 20, 30), (2, 65, 5)):
        inputs = ran(hyena_mixer_step_inputs(batch, 40, channels, t=t))
        assert inputs["y"].isfinite().all()


@every_backend
@pytest.mark.parametrize(("batch", "channels"), [(0, 4), (2, 0)])
def test_empty_batch_or_no_channels(batch: int, channels: int) -> None:
    inputs = hyena_mixer_step_inputs(batch, 10, channels)
    assert hyena_mixer_step(**inputs).shape == (batch, channels)


@every_backend
def test_autocast_has_no_effect() -> None:
    inputs = hyena_mixer_step_inputs(2, 30, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = ran(inputs)
    assert_equal(found, ran(inputs))


def on_the_device(inputs: Inputs, window: int = 64) -> Inputs:
    """Plain PyTorch as it runs where only the device knows ``t``."""
    inputs = copied(inputs)
    grouped = MixerStepInputs(**inputs)
    y = plain._forward(grouped, plain._of_tensor(grouped, grouped.t, window))
    return {"y": y, **{name: inputs[name] for name in STATES}}


@pytest.mark.parametrize("t", [0, 5, 63, 64, 127, 129])
def test_plain_pytorch_where_only_the_device_knows_t(t: int) -> None:
    # The horizon ends within a window.
    inputs = hyena_mixer_step_inputs(2, 130, 9, t=t, order=3)
    found, expected = on_the_device(inputs), ran(inputs)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, equal_nan=True)


def test_no_value_is_read_where_only_the_device_knows_t() -> None:
    """A CUDA graph holds such a step. Without a GPU a device without values stands for it."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        inputs = {name: mode.from_tensor(tensor) for name, tensor in hyena_mixer_step_inputs(2, 130, 9).items()}
        assert on_the_device(inputs)["y"].shape == (2, 9)
        with pytest.raises(DataDependentOutputException):
            plain.forward(MixerStepInputs(**inputs), -1, 64)
    meta = {name: tensor.to("meta") for name, tensor in hyena_mixer_step_inputs(2, 130, 9).items()}
    assert plain.forward(MixerStepInputs(**meta), -1, 64).shape == (2, 9)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_one_compilation_serves_every_step_and_length() -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def function(**tensors: Any) -> Tensor:
        return 2 * hyena_mixer_step(**tensors)

    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for t, horizon in ((3, 90), (70, 90), (33, 40)):
        for number in (False, True):
            inputs = hyena_mixer_step_inputs(2, horizon, 3, t=t)
            step = inputs.pop("t") if not number else t
            inputs.pop("t", None)
            expected = ran(inputs, t=step)
            y = compiled(**inputs, t=step)
            assert_equal({"y": y, **{name: inputs[name] for name in STATES}}, {**expected, "y": 2 * expected["y"]})
        counts.append(counter.frame_count)
    # One for a number and one for a tensor.
    assert counts == [2] * 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [False, True])
def test_passes_opcheck(number: bool) -> None:
    inputs = hyena_mixer_step_inputs(2, 10, 3, t=6, bias=number)
    inputs["u"].nan_to_num_()
    inputs["t"], step = (None, 6) if number else (inputs["t"], -1)
    torch.library.opcheck(torch.ops.hyena_kernels.hyena_mixer_step.default, (*inputs.values(), step, 4, "auto"))


def test_the_schema_has_the_fields_that_backends_take() -> None:
    schema = torch.ops.hyena_kernels.hyena_mixer_step.default._schema
    names = [argument.name for argument in schema.arguments]
    assert names == [*MixerStepInputs._fields, "step", "window", "backend"]
    assert {argument.name for argument in schema.arguments if argument.alias_info is not None} == set(STATES)


def test_meta_and_fake_tensors_give_shapes() -> None:
    inputs = hyena_mixer_step_inputs(2, 30, 5, dtype=torch.bfloat16)
    y = hyena_mixer_step(**{name: tensor.to("meta") for name, tensor in inputs.items()})
    assert (y.shape, y.dtype, y.device.type) == ((2, 5), torch.bfloat16, "meta")
    with FakeTensorMode() as mode:
        fakes = {name: mode.from_tensor(tensor) for name, tensor in inputs.items()}
        assert hyena_mixer_step(**fakes).shape == (2, 5)


def test_a_step_that_autograd_would_record_is_refused() -> None:
    message = "hyena_mixer_step has no derivative, and an argument requires grad: call it under torch.no_grad()"
    for name in ("x", "short_weight", "taps"):
        inputs = hyena_mixer_step_inputs(2, 10, 3)
        inputs[name].requires_grad_()
        assert_refused(hyena_mixer_step, RuntimeError, message, **inputs)
        args = (*inputs.values(), -1, 64, "auto")
        with pytest.raises(RuntimeError, match="has no derivative"):
            torch.ops.hyena_kernels.hyena_mixer_step(*args)
        with torch.no_grad():
            assert not hyena_mixer_step(**inputs).requires_grad
        with torch.inference_mode():
            hyena_mixer_step(**inputs)


def test_transforms_are_refused() -> None:
    inputs = hyena_mixer_step_inputs(2, 10, 3)

    def function(x: Tensor) -> Tensor:
        return hyena_mixer_step(**{**inputs, "x": x})

    x = inputs["x"]
    for transform, argument in ((torch.vmap, x[None]), (torch.func.jacrev, x), (torch.func.functionalize, x)):
        with pytest.raises(NotImplementedError, match=r"writes to an argument: transforms of torch\.func refuse it"):
            transform(function)(argument)
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(inputs["x"], inputs["x"])
        with pytest.raises(NotImplementedError, match="forward mode"):
            function(dual)
        assert function(inputs["x"]).shape == (2, 3)


@every_backend
def test_autograd_notices_that_the_states_have_changed() -> None:
    inputs = hyena_mixer_step_inputs(2, 10, 3)
    factor = torch.ones((), requires_grad=True)
    products = [(name, inputs[name] * factor) for name in STATES]
    hyena_mixer_step(**inputs)
    for name, product in products:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()
        assert inputs[name]._version > 0


BASE = hyena_mixer_step_inputs(2, 10, 3, t=4)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x": ({"x": [0.0]}, TypeError, "x must be a tensor of shape (B, (N+1)d), got list"),
    "x rank": ({"x": BASE["x"][0]}, ValueError, "x has shape (9,), expected (B, (N+1)d)"),
    "x width": ({"x": BASE["x"][:, 1:]}, ValueError, "x (B, (N+1)d) has shape (2, 8) and taps (N-1, d, G) (1, 3, 10)"),
    "x dtype": ({"x": BASE["x"].int()}, TypeError, "x (2, 9) has dtype torch.int32"),
    "x and its state": (
        {"x": BASE["x"].half()},
        TypeError,
        "short_state has dtype torch.float32, expected the torch.fl",
    ),
    "x of float64": (
        {"x": BASE["x"].double(), "short_state": BASE["short_state"].double()},
        TypeError,
        "u has dtype torch.float32, expected torch.float64 for an x of torch.float64",
    ),
    "state": ({"short_state": BASE["short_state"][..., 1:]}, ValueError, "short_state has shape (2, 9, 1), expected"),
    "weight": ({"short_weight": BASE["short_weight"][1:]}, ValueError, "expected (N+1)d = 9 and 1 ≤ Ks ≤ 8"),
    "taps of the weight": (
        {"short_weight": torch.zeros(9, 9), "short_state": torch.zeros(2, 9, 8)},
        ValueError,
        "short_weight ((N+1)d, Ks) has shape (9, 9): expected (N+1)d = 9 and 1 ≤ Ks ≤ 8",
    ),
    "weight dtype": ({"short_weight": BASE["short_weight"].half()}, TypeError, "short_weight (9, 3) has dtype"),
    "bias": ({"short_bias": torch.zeros(3)}, ValueError, "short_bias has shape (3,), expected ((N+1)d,) = (9,)"),
    "u": ({"u": BASE["u"][..., 1:]}, ValueError, "u has shape (1, 2, 3, 9), expected (N-1, B, d, G) = (1, 2, 3, 10)"),
    "u dtype": ({"u": BASE["u"].bfloat16()}, TypeError, "u has dtype torch.bfloat16, expected torch.float32 for an x"),
    "u shared": ({"u": torch.zeros(1, 1, 3, 10).expand(-1, 2, -1, -1)}, ValueError, "let elements share their memory"),
    "future": ({"future": BASE["future"][0]}, ValueError, "future has shape (2, 3, 10), expected (N-1, B, d, G)"),
    "taps": ({"taps": BASE["taps"][0]}, ValueError, "taps has shape (3, 10), expected (N-1, d, G)"),
    "no steps": ({"taps": BASE["taps"][..., :0]}, ValueError, "N ≥ 2 and G ≥ 1"),
    "device": ({"x": BASE["x"].to("meta")}, ValueError, "all tensors must be on one device, got x (2, 9) on meta"),
    "sparse": (
        {"x": BASE["x"].to_sparse()},
        TypeError,
        "x (2, 9) has layout torch.sparse_coo, expected a dense tensor",
    ),
    "t": ({"t": 10}, IndexError, "hyena_mixer_step: t is 10, expected 0 ≤ t < G = 10"),
    "t below 0": ({"t": -1}, IndexError, "t is -1, expected 0 ≤ t < G = 10"),
    "t in memory": ({"t": torch.tensor(10)}, IndexError, "t is 10, expected 0 ≤ t < G = 10"),
    "t of another dtype": (
        {"t": torch.tensor(1.0)},
        ValueError,
        "t has shape () and dtype torch.float32, expected a n",
    ),
    "several t": ({"t": torch.tensor([1])}, ValueError, "t has shape (1,) and dtype torch.int64, expected a number or"),
    "t of half": ({"t": 0.5}, TypeError, "t must be a whole number or an int64 tensor, got float"),
    "window": ({"window": 48}, ValueError, "window is 48, expected a power of two"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("known", [False, True])
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str, known: bool) -> None:
    """Also after a call of the same shapes has passed the checks."""
    inputs = copied(BASE)
    if known:
        hyena_mixer_step(**inputs)
    before = copied(inputs)
    assert_refused(hyena_mixer_step, error, message, **{**inputs, **change})
    assert_equal(inputs, before)


def test_a_backend_that_cannot_run_it_says_so() -> None:
    with pytest.raises(_backend.BackendError, match="runs on CUDA devices only"):
        hyena_mixer_step(**copied(BASE), backend="triton")
    with pytest.raises(_backend.BackendError, match="has no implementation for it"):
        hyena_mixer_step(**copied(BASE), backend="cuda")
    supports = _backend._supports["hyena_mixer_step", "triton"]
    assert supports(*BASE.values(), -1, 128) is None
    assert supports(*BASE.values(), -1, 256) == "takes windows of up to 128, this one is larger"
    assert "no float64 kernels" in supports(BASE["x"].double(), *list(BASE.values())[1:], -1, 64)

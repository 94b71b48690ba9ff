"""``far_field_filter`` and ``implicit_conv`` against the network at every lag, and the basis that both rest on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from hyena_kernels import far_field_filter, fftconv, implicit_conv, implicit_filter, positions
from hyena_kernels.common import far_field
from hyena_kernels.common.features import features_at
from hyena_kernels.testing import error_budget, implicit_filter_inputs, relative_error, value_and_gradients
from tests.hyena_kernels.helpers import assert_refused, assert_same

DOUBLE = torch.float64
each_backend = pytest.mark.usefixtures("each_backend")
pytestmark = pytest.mark.op("far_field_conv")


def network(
    channels: int = 3, *, width: int = 16, window: bool = True, dtype: torch.dtype = DOUBLE, **options: Any
) -> dict[str, Tensor]:
    """Parameters of a network whose filters are smooth over a few hundred positions."""
    made = implicit_filter_inputs(channels, 2, width=width, dtype=dtype, window=window, **options)
    parameters = {name: each for name, each in made.items() if name not in ("z", "t") and each is not None}
    return {**parameters, "freq": parameters["freq"] / 10}


def filters_at(lags: Tensor, parameters: dict[str, Tensor], seq_len: int, shift: float = 0.0) -> Tensor:
    """The filters of a network at any lags, without far fields."""
    z = features_at(lags, seq_len, parameters["w_in"].shape[1])
    t = z[:, 0].contiguous() if "deltas" in parameters else None
    return implicit_filter(z, t=t, shift=shift, **parameters)


@pytest.mark.parametrize(("h", "p"), [(2, 2), (5, 3), (16, 6), (64, 8), (7, 7)])
def test_basis_is_that_of_lagrange(h: int, p: int) -> None:
    """By what defines it: polynomials of degree below p are the sum of their values at the nodes."""
    place = torch.arange(h, dtype=DOUBLE)
    node = torch.linspace(0, h - 1, p, dtype=DOUBLE)
    basis = far_field.basis(h, p)
    assert (basis.shape, basis.dtype) == ((h, p), DOUBLE)
    for degree in range(p):
        torch.testing.assert_close(basis @ (node / h) ** degree, (place / h) ** degree, rtol=1e-12, atol=1e-13)
    assert torch.equal(far_field.basis(h, p, dtype=torch.float32), basis.float())


def test_lags_of_nodes_by_hand() -> None:
    # Nodes of a block of 5 are at 0, 2 and 4.
    expected = [[1, 6], [3, 8], [5, 10], [7, 12], [9, 14]]
    assert far_field.node_lags(5, 3, 3).tolist() == expected
    assert far_field.node_lags(5, 3, 1).shape == (5, 0)
    assert [far_field.block_count(length, 5) for length in (1, 5, 6, 10, 11)] == [1, 1, 2, 2, 3]


def test_apple_gpus_leave_float64_to_the_cpu() -> None:
    assert far_field.exact_device(torch.device("mps")) == torch.device("cpu")
    assert far_field.exact_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert far_field.exact_device(None) is None


@pytest.mark.parametrize("seq_len", [1, 2, 100])
def test_features_are_those_of_the_positional_embedding(seq_len: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z = features_at(torch.arange(seq_len, dtype=DOUBLE), seq_len, 7)
    # What it does for long sequences: in float64 from the same formula.
    monkeypatch.setattr(positions, "_MOST_IN_FLOAT32", 0)
    embedding = positions.PositionalEmbedding(7, seq_len)
    assert torch.equal(z.float(), embedding.z[0])
    assert torch.equal(z[:, :1].float(), embedding.t[0])


@each_backend
@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
@pytest.mark.parametrize(("length", "seq_len"), [(1, 1), (16, 16), (17, 17), (100, 100), (50, 100)])
def test_filters_are_the_network_at_their_lags(length: int, seq_len: int, window: bool) -> None:
    h, p, blocks = 16, 6, -(-length // 16)
    parameters, shift = network(window=window), 0.05 if window else 0.0
    near, nodes = far_field_filter(**parameters, shift=shift, length=length, seq_len=seq_len, h=h, p=p, dtype=DOUBLE)
    assert (near.shape, nodes.shape) == ((3, h), (3, 2 * p - 1, blocks - 1))
    expected = filters_at(torch.arange(h, dtype=DOUBLE), parameters, seq_len, shift)
    torch.testing.assert_close(near, expected, rtol=1e-12, atol=1e-13)
    for m in range(1 - p, p) if blocks > 1 else ():
        lags = torch.tensor([d * h + m * 3 for d in range(1, blocks)], dtype=DOUBLE)
        expected = filters_at(lags, parameters, seq_len, shift)
        torch.testing.assert_close(nodes[:, m + p - 1], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_parameters_of_float32_are_taken_in_float64(dtype: torch.dtype) -> None:
    """Rounded once, at the end: the frequencies of 10 would multiply the roundings of float32 on the way."""
    parameters = network(dtype=torch.float32)
    wide = {name: each.double() for name, each in parameters.items()}
    options = {"length": 90, "seq_len": 90, "h": 16, "p": 6}
    exact = far_field_filter(**wide, **options, dtype=DOUBLE)
    with torch.autocast("cpu", torch.bfloat16):
        found = far_field_filter(**parameters, **options, dtype=dtype)
    for value, expected in zip(found, exact, strict=True):
        assert torch.equal(value, expected.to(dtype))


@each_backend
@pytest.mark.parametrize("length", [1, 15, 16, 17, 300, 401])
def test_is_the_convolution_with_all_the_taps(length: int) -> None:
    """Values and every gradient in float64, gates and skip included."""
    parameters = network()
    signals = {name: torch.randn(2, 3, length, dtype=DOUBLE) for name in ("u", "pre_gate", "post_gate")}
    inputs = {**signals, "D": torch.randn(3, dtype=DOUBLE), **parameters}

    def exact(u: Tensor, pre_gate: Tensor, post_gate: Tensor, D: Tensor, **parameters: Tensor) -> Tensor:
        k = filters_at(torch.arange(length, dtype=DOUBLE), parameters, 401, 0.05)
        return fftconv(u, k, D, pre_gate=pre_gate, post_gate=post_gate)

    def far(**tensors: Tensor) -> Tensor:
        return implicit_conv(**tensors, shift=0.05, seq_len=401, h=16, p=8)

    dy = torch.randn(2, 3, length, dtype=DOUBLE)
    expected, results = value_and_gradients(exact, inputs, dy), value_and_gradients(far, inputs, dy)
    assert results.keys() == expected.keys() == {"y", *(f"d{name}" for name in inputs)}
    for name, value in results.items():
        # The taps of lag 0 have no gradient to the rates of the window: there is a rounding, and nothing to compare.
        scale = max(expected[name].norm().item(), 1e-3)
        assert (value - expected[name]).norm().item() < 1e-10 * scale, name


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_error_is_within_the_budget_of_the_exact_route(dtype: torch.dtype) -> None:
    """The budget of an ``fftconv`` in the dtype whose filter is exact and rounded once."""
    length, parameters = 500, network(32, window=False)
    u, D = torch.randn(2, 32, length, dtype=DOUBLE).to(dtype), torch.randn(32)
    k = filters_at(torch.arange(length, dtype=DOUBLE), parameters, length)
    oracle = fftconv(u.double(), k, D.double())
    y = implicit_conv(u, **parameters, D=D, h=16, p=8)
    assert (y.dtype, y.shape) == (dtype, u.shape)
    assert relative_error(y, oracle) <= error_budget(fftconv(u, k.float(), D), oracle)


def test_length_of_the_signal_is_the_default_of_the_filter() -> None:
    u, parameters = torch.randn(1, 3, 70), network(dtype=torch.float32)
    implied, other = (implicit_conv(u, **parameters, seq_len=n, h=16, p=6) for n in (None, 80))
    assert torch.equal(implied, implicit_conv(u, **parameters, seq_len=70, h=16, p=6))
    assert relative_error(other, implied) > 1e-3


@each_backend
def test_gradcheck() -> None:
    parameters = network(2, width=3, features=3, layers=1)
    inputs = {"u": torch.randn(1, 2, 7, dtype=DOUBLE), "D": torch.randn(2, dtype=DOUBLE), **parameters}

    def function(*tensors: Tensor) -> Tensor:
        return implicit_conv(**dict(zip(inputs, tensors, strict=True)), h=3, p=2)

    assert torch.autograd.gradcheck(function, [each.requires_grad_() for each in inputs.values()])


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_one_compilation_serves_every_length() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    parameters = network(dtype=torch.float32)

    def function(**tensors: Tensor) -> Tensor:
        return implicit_conv(**tensors, h=8, p=4)

    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for length in (33, 64):
        inputs = {"u": torch.randn(2, 3, length), **parameters}
        dy = torch.randn(2, 3, length)
        results, expected = value_and_gradients(compiled, inputs, dy), value_and_gradients(function, inputs, dy)
        for name, value in results.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
        counts.append(counter.frame_count)
    # A float argument makes dynamo start over once within the first call.
    assert counts[0] in (1, 2)
    assert set(counts) == {counts[0]}


def test_torch_func_gives_the_same() -> None:
    parameters = network(dtype=torch.float32)
    u = torch.randn(2, 1, 3, 40)
    together = torch.vmap(lambda each: implicit_conv(each, **parameters, h=8, p=4))(u)
    assert torch.equal(together, torch.stack([implicit_conv(each, **parameters, h=8, p=4) for each in u]))

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        return implicit_conv(u[0], **tensors, h=8, p=4).square().sum()

    plain = value_and_gradients(lambda **tensors: loss(tensors), parameters, torch.ones(()))
    for name, gradient in torch.func.grad(loss)(parameters).items():
        torch.testing.assert_close(gradient, plain[f"d{name}"], rtol=1e-5, atol=1e-6)


def test_checkpoints_give_the_same_gradients() -> None:
    inputs = {"u": torch.randn(1, 3, 40), **network(dtype=torch.float32)}
    dy = torch.randn(1, 3, 40)

    def function(**tensors: Tensor) -> Tensor:
        return implicit_conv(**tensors, h=8, p=4).square()

    def again(**tensors: Tensor) -> Tensor:
        result = checkpoint(function, use_reentrant=False, **tensors)
        assert isinstance(result, Tensor)
        return result

    assert_same(value_and_gradients(again, inputs, dy), value_and_gradients(function, inputs, dy))


def test_autocast_casts_the_signal_alone() -> None:
    u, parameters = torch.randn(2, 3, 60), network(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = implicit_conv(u, **parameters, h=16, p=6)
    assert torch.equal(y, implicit_conv(u.bfloat16(), **parameters, h=16, p=6))


def test_nothing_as_long_as_the_signal_is_saved_but_the_signal() -> None:
    """No filter of L taps exists between forward and backward, and no gradient of one is made."""
    length = 2000
    u, parameters = torch.randn(1, 3, length), network(dtype=torch.float32)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        implicit_conv(u.requires_grad_(), **{n: each.requires_grad_() for n, each in parameters.items()}, h=64, p=4)
    # 31 distances of 7 nodes and 64 taps, of 3 channels, or of 5 features in float64.
    nodes = 7 * 31 + 64
    long = [each for each in saved if each.numel() > 5 * nodes]
    assert {each.data_ptr() for each in long} == {u.data_ptr()}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"p": 1}, ValueError, "far_field_filter: expected 2 ≤ p ≤ h, length ≥ 1 and seq_len ≥ 1, got p=1, h=8"),
        ({"p": 9}, ValueError, "got p=9, h=8, length=20 and seq_len=20"),
        ({"length": 0}, ValueError, "length=0"),
        ({"seq_len": 0}, ValueError, "seq_len=0"),
        ({"w_in": torch.zeros(16, 4)}, ValueError, "w_in (H, E) has shape (16, 4), expected an odd E of at least 3"),
        ({"w_in": torch.zeros(16)}, ValueError, "far_field_filter: w_in has shape (16,), expected (H, E)"),
        ({"w_out": torch.zeros(3, 16).half()}, TypeError, "far_field_filter: w_out (3, 16) has dtype torch.float16"),
        ({"freq": 10.0}, TypeError, "far_field_filter: freq must be a tensor"),
        ({"b_in": torch.zeros(4)}, ValueError, "implicit_filter: b_in has shape (4,)"),
        ({"dtype": torch.bfloat16}, ValueError, "far_field_filter: dtype must be torch.float32 or torch.float64"),
    ],
)
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {**network(dtype=torch.float32), "length": 20, "seq_len": 20, "h": 8, "p": 4}
    assert_refused(far_field_filter, error, message, **{**given, **change})

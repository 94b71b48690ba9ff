"""``HyenaOperator`` and ``HyenaFilter``: keys, results and arguments of the original; copies, dtypes, compilation."""

from __future__ import annotations

import copy
import io
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from bench.baselines.published import PublishedHyenaOperator
from hyena_kernels import BackendError, HyenaFilter, HyenaOperator, use_backend
from hyena_kernels.testing import reference_fftconv, reference_hyena_mixer, reference_short_conv
from tests.hyena_kernels.helpers import assert_same

D_MODEL, L_MAX = 6, 40
# What the published models pass on to the filter.
PUBLISHED: dict[str, Any] = {"emb_dim": 5, "lr_pos_emb": 0.0, "w": 10.0}


def operator(order: int = 2, **options: Any) -> HyenaOperator:
    module = HyenaOperator(D_MODEL, L_MAX, order=order, filter_order=16, **{**PUBLISHED, **options})
    # Away from the values of a new module, at which some gradients are zero or alike.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def plain(module: HyenaOperator, u: Tensor) -> Tensor:
    """The operator of any order step by step in plain PyTorch, with filters by the published modules."""
    own, L = module.filter_fn, u.shape[1]
    z, t = own.pos_emb(L)
    k = own.modulation(t, own.implicit_filter(z))[0].t().reshape(module.order - 1, D_MODEL, L)
    D = own.bias.view(module.order - 1, D_MODEL) if own.use_bias else None
    y = reference_hyena_mixer(module.in_proj(u), module.short_filter.weight[:, 0], module.short_filter.bias, k, D)
    return module.out_proj(module.activation(y))


def gradients(function: Callable[[Tensor], Tensor], module: nn.Module, u: Tensor) -> dict[str, Tensor]:
    leaf = u.detach().requires_grad_()
    y = function(leaf)
    torch.manual_seed(1)
    module.zero_grad()
    y.backward(torch.randn_like(y))
    result = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    return {**result, "u": leaf.grad, "y": y.detach()}


def assert_close(results: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor within a relative L2 distance."""
    assert results.keys() == expected.keys()
    for name, value in results.items():
        scale = torch.linalg.vector_norm(expected[name])
        assert scale > 0, name
        assert torch.linalg.vector_norm(value - expected[name]) <= tolerance * scale, name


KEYS = [
    "filter_fn.bias",
    "filter_fn.implicit_filter.0.bias",
    "filter_fn.implicit_filter.0.weight",
    "filter_fn.implicit_filter.1.freq",
    "filter_fn.implicit_filter.2.bias",
    "filter_fn.implicit_filter.2.weight",
    "filter_fn.implicit_filter.3.freq",
    "filter_fn.implicit_filter.4.bias",
    "filter_fn.implicit_filter.4.weight",
    "filter_fn.implicit_filter.5.freq",
    "filter_fn.implicit_filter.6.weight",
    "filter_fn.modulation.deltas",
    "filter_fn.pos_emb.t",
    "filter_fn.pos_emb.z",
    "in_proj.bias",
    "in_proj.weight",
    "out_proj.bias",
    "out_proj.weight",
    "short_filter.bias",
    "short_filter.weight",
]


@pytest.mark.parametrize("order", [2, 3])
def test_state_dict_has_the_keys_and_shapes_of_the_original(order: int) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in operator(order).state_dict().items()}
    assert sorted(shapes) == KEYS
    width, filters = (order + 1) * D_MODEL, (order - 1) * D_MODEL
    expected = {
        "filter_fn.bias": (filters,),
        "filter_fn.implicit_filter.0.weight": (16, 5),
        "filter_fn.implicit_filter.1.freq": (1, 16),
        "filter_fn.implicit_filter.2.weight": (16, 16),
        "filter_fn.implicit_filter.6.weight": (filters, 16),
        "filter_fn.modulation.deltas": (1, 1, filters),
        "filter_fn.pos_emb.t": (1, L_MAX, 1),
        "filter_fn.pos_emb.z": (1, L_MAX, 5),
        "in_proj.weight": (width, D_MODEL),
        "out_proj.weight": (D_MODEL, D_MODEL),
        "short_filter.weight": (width, 1, 3),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_parameters_and_buffers_are_those_of_the_published_models() -> None:
    module = operator()
    assert {name for name, _ in module.named_buffers()} == {
        "filter_fn.pos_emb.z",
        "filter_fn.pos_emb.t",
        "filter_fn.modulation.deltas",
    }
    # The three frequencies are one: three weights, three biases, the frequency and the last weight.
    assert [parameter._optim for parameter in module.filter_fn.implicit_filter.parameters()] == [
        {"lr": 1e-3, "weight_decay": 0.0}
    ] * 8


def test_positions_and_decay_rates_are_those_of_the_published_models() -> None:
    own = HyenaOperator(D_MODEL, L_MAX, **PUBLISHED).filter_fn
    n = torch.arange(L_MAX, dtype=torch.float64)
    w = 2 * math.pi * n / L_MAX
    columns = [n / (L_MAX - 1), torch.cos(1e-4 * w), torch.cos(w), -torch.sin(1e-4 * w), -torch.sin(w)]
    torch.testing.assert_close(own.pos_emb.z[0].double(), torch.stack(columns, dim=1), rtol=0, atol=1e-6)
    torch.testing.assert_close(own.pos_emb.t[0, :, 0].double(), columns[0], rtol=0, atol=1e-7)
    assert own.modulation.deltas[0, 0, 0].item() == pytest.approx(-3.0701, abs=1e-4)
    assert own.modulation.deltas[0, 0, -1].item() == pytest.approx(-15.3506, abs=1e-4)
    assert own.modulation.shift == 0.05
    assert torch.equal(own.implicit_filter[1].freq, torch.full((1, 64), 10.0))


@pytest.mark.parametrize("shift", [0.05, 0.0])
@pytest.mark.parametrize("length", [1, 2, 33, L_MAX])
def test_equals_the_published_op_sequence(length: int, shift: float) -> None:
    module = operator(shift=shift).double()
    u = torch.randn(3, length, D_MODEL, dtype=torch.float64)
    published = PublishedHyenaOperator(module)
    results, expected = gradients(module, module, u), gradients(published, module, u)
    if length == 1:
        # A single position is its own start: there is nothing that a decay rate or a second position could change.
        results = {name: value for name, value in results.items() if expected[name].any()}
        expected = {name: value for name, value in expected.items() if value.any()}
    assert_close(results, expected, 1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_every_order_equals_plain_pytorch(order: int) -> None:
    module = operator(order).double()
    u = torch.randn(2, 29, D_MODEL, dtype=torch.float64)
    assert_close(gradients(module, module, u), gradients(lambda x: plain(module, x), module, u), 1e-12)


@pytest.mark.parametrize(
    "options",
    [
        *({"activation": name} for name in ("identity", "linear", "gelu", "relu", "silu", "swish", "tanh", "sigmoid")),
        *({"short_filter_order": taps} for taps in (1, 2, 4, 8)),
        {"num_inner_mlps": 0},
        {"num_inner_mlps": 4},
        {"emb_dim": 3},
        {"emb_dim": 9},
        {"modulate": False},
        {"train_freq": False},
        {"modulation_lr": 1e-3},
        {"lr_pos_emb": 1e-5},
        {"fast_decay_pct": 0.5, "slow_decay_pct": 2.0, "target": 0.1},
        {"fused_bias_fc": True, "fused_fft_conv": True},
        {"num_heads": 1, "inner_factor": 1, "num_blocks": 1, "outer_mixing": False, "post_order_ffn": False},
    ],
    ids=str,
)
def test_supported_arguments_work(options: dict[str, Any]) -> None:
    module = operator(**options).double()
    u = torch.randn(2, 21, D_MODEL, dtype=torch.float64)
    assert_close(gradients(module, module, u), gradients(lambda x: plain(module, x), module, u), 1e-11)


def test_without_bias_the_skip_is_left_out() -> None:
    module = operator(bias=False).double()
    module.filter_fn.bias.requires_grad_(False).fill_(float("nan"))
    u = torch.randn(2, 21, D_MODEL, dtype=torch.float64)
    torch.testing.assert_close(module(u), plain(module, u), rtol=1e-12, atol=1e-13)
    module(u).sum().backward()
    assert not any(p.grad.isnan().any() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_heads", 2),
        ("inner_factor", 2),
        ("num_blocks", 2),
        ("outer_mixing", True),
        ("post_order_ffn", True),
        ("jit_filter", True),
        ("filter_cls", "other-filter"),
        ("filter_dropout", 0.1),
        ("normalized", True),
        ("linear_mixer", True),
        ("channels", 2),
    ],
)
def test_unsupported_arguments_are_named(option: str, value: Any) -> None:
    name = "dropout" if option == "filter_dropout" else option
    with pytest.raises(NotImplementedError, match=re.escape(f"{name}={value!r} is not supported")):
        operator(**{option: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 1}, "HyenaOperator: order must be at least 2, got 1"),
        ({"short_filter_order": 0}, "HyenaOperator: short_filter_order must be 1 to 8, got 0"),
        ({"short_filter_order": 9}, "HyenaOperator: short_filter_order must be 1 to 8, got 9"),
        ({"backend": "fast"}, "unknown backend 'fast'"),
        ({"activation": "mish"}, "HyenaOperator: unknown activation 'mish': choose one of ['gelu',"),
        ({"bidirectional": 1}, 'HyenaOperator: bidirectional must be False, True or "published", got 1'),
        ({"emb_dim": 4}, "HyenaFilter: emb_dim must be odd and at least 3 (time, cosine and sine), got 4"),
        ({"emb_dim": 1}, "HyenaFilter: emb_dim must be odd and at least 3 (time, cosine and sine), got 1"),
    ],
)
def test_impossible_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        operator(**options)


def test_a_length_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="HyenaFilter: seq_len, the l_max of an operator, must be at least 1, got 0"):
        HyenaOperator(8, 0)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="HyenaFilter: unexpected argument 'no_such_argument'"):
        operator(no_such_argument=1)


@pytest.mark.parametrize(
    ("u", "error", "message"),
    [
        (
            torch.zeros(1, L_MAX + 1, D_MODEL),
            ValueError,
            "has shape (1, 41, 6): its length L is outside 1 … 40, the l_max",
        ),
        (torch.zeros(1, 0, D_MODEL), ValueError, "has shape (1, 0, 6): its length L is outside 1 … 40"),
        (torch.zeros(1, 8, 5), ValueError, "HyenaOperator: input has shape (1, 8, 5), expected (B, L, D) with D = 6"),
        (torch.zeros(8, D_MODEL), ValueError, "HyenaOperator: input has shape (8, 6), expected (B, L, D)"),
        (torch.zeros(1, 8, D_MODEL).long(), TypeError, "HyenaOperator: input (1, 8, 6) has dtype torch.int64"),
        ([[[0.0] * D_MODEL]], TypeError, "HyenaOperator: input must be a tensor of shape (B, L, D), got list"),
    ],
)
def test_refuses_with_one_clear_line(u: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as raised:
        operator()(u)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", [2, 3])
def test_calls_may_share_filters(order: int, bias: bool) -> None:
    module, inputs = operator(order, bias=bias).double(), torch.randn(2, 2, 9, D_MODEL, dtype=torch.float64)
    k, D = filters = module.filters(9)
    assert k.shape == (order - 1, D_MODEL, 9)
    assert D.shape == (order - 1, D_MODEL) if bias else D is None
    wanted = [p for name, p in module.named_parameters() if bias or name != "filter_fn.bias"]
    expected = [module(u) for u in inputs]
    results = [module(u, filters=filters) for u in inputs]
    for result, own in zip(results, expected, strict=True):
        assert torch.equal(result, own)
    summed, own = (torch.autograd.grad(sum(y.square().sum() for y in ys), wanted) for ys in (results, expected))
    for one, other in zip(summed, own, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_filters_that_are_given_decide() -> None:
    module, u = operator(), torch.randn(2, 9, D_MODEL)
    k, D = module.filters(9)
    torch.testing.assert_close(module(u, filters=(0 * k, 0 * D)), module.out_proj.bias.expand(2, 9, D_MODEL))
    assert not torch.allclose(module(u, filters=(k, None)), module(u))


@pytest.mark.parametrize(
    ("filters", "error", "message"),
    [
        (torch.zeros(1, D_MODEL, 8), TypeError, "HyenaOperator: filters must be two tensors, as HyenaOperator.filters"),
        ((torch.zeros(1, D_MODEL, 9), None), ValueError, "filters: k has shape (1, 6, 9), expected (1, 6, 8) for an"),
        ((torch.zeros(D_MODEL, 8), None), ValueError, "filters: k has shape (6, 8), expected (1, 6, 8)"),
        ((torch.zeros(1, D_MODEL, 8), torch.zeros(D_MODEL)), ValueError, "filters: D has shape (6,), expected (1, 6)"),
    ],
)
def test_filters_of_another_shape_are_refused(filters: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as raised:
        operator()(torch.zeros(1, 8, D_MODEL), filters=filters)
    assert "\n" not in str(raised.value)


def test_filter_refuses_other_lengths() -> None:
    for length in (0, L_MAX + 1):
        with pytest.raises(ValueError, match=f"HyenaFilter: length {length} is outside 1 … {L_MAX}"):
            operator().filter_fn.kernel(length)


def test_filters_depend_on_l_max_and_not_on_the_length() -> None:
    own = operator().filter_fn
    torch.testing.assert_close(own.kernel(10), own.kernel(L_MAX)[:, :10])
    longer = HyenaFilter(D_MODEL, order=16, seq_len=2 * L_MAX, **PUBLISHED)
    longer.load_state_dict(
        {name: tensor for name, tensor in own.state_dict().items() if "pos_emb" not in name}, strict=False
    )
    assert (longer.kernel(10) - own.kernel(10)).abs().max() > 1e-3


def test_return_state() -> None:
    module = operator(return_state=True)
    y, state = module(torch.randn(1, 9, D_MODEL))
    assert y.shape == (1, 9, D_MODEL)
    assert state is None
    assert module.d_output == D_MODEL


def test_the_filter_module_convolves_as_the_original() -> None:
    own = operator().double().filter_fn
    x, k, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, D_MODEL, 20), (D_MODEL, 20), (D_MODEL,)))
    assert own.filter(20).shape == (1, 20, D_MODEL)
    torch.testing.assert_close(
        own(x, 20), reference_fftconv(x, own.filter(20)[0].t(), own.bias), rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(own(x, 20, k, bias), reference_fftconv(x, k, bias), rtol=1e-12, atol=1e-13)
    own.use_bias = False
    torch.testing.assert_close(own(x, 20, k, bias), reference_fftconv(x, k), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [2, 3])
def test_dropout_that_drops_nothing_changes_nothing(order: int) -> None:
    """The path with dropout computes step by step and gives the same result as the fused path."""
    module = operator(order, dropout=0.5).double()
    u = torch.randn(2, 30, D_MODEL, dtype=torch.float64)
    module.eval()
    fused = gradients(module, module, u)
    module.train()
    module.dropout = KeepsEverything(0.5)
    assert_close(gradients(module, module, u), fused, 1e-12)


class KeepsEverything(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_dropout_drops_where_the_original_drops() -> None:
    """Of order 2 without output projection, ``y = x0 * conv(dropout(v * x1))`` with the same random mask."""
    module = operator(dropout=0.3).double().train()
    u = torch.randn(2, 30, D_MODEL, dtype=torch.float64)
    torch.manual_seed(5)
    y = module(u)
    own = module.filter_fn
    p = reference_short_conv(
        module.in_proj(u).transpose(1, 2), module.short_filter.weight[:, 0], module.short_filter.bias
    )
    x0, x1, v = p.split(D_MODEL, dim=1)
    torch.manual_seed(5)
    v = reference_fftconv(nn.functional.dropout(v * x1, 0.3), own.filter(30)[0].t(), own.bias)
    torch.testing.assert_close(y, module.out_proj((v * x0).transpose(1, 2)), rtol=1e-11, atol=1e-12)
    assert not torch.equal(module(u), y)
    assert torch.equal(module.eval()(u), module(u))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(reentrant: bool) -> None:
    module = operator()
    u = torch.randn(2, 30, D_MODEL)
    expected = gradients(module, module, u)
    results = gradients(lambda x: checkpoint(module, x, use_reentrant=reentrant), module, u)
    assert_same(results, expected)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_copies_are_whole(copied: str) -> None:
    module = operator()
    if copied == "deepcopy":
        other = copy.deepcopy(module)
    else:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    u = torch.randn(1, 20, D_MODEL)
    assert torch.equal(other(u), module(u))
    # The frequencies are still one tensor, and none of the original.
    network = other.filter_fn.implicit_filter
    assert network[1].freq is network[3].freq
    assert network[1].freq is not module.filter_fn.implicit_filter[1].freq


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_change_the_result_by_a_few_roundings(dtype: torch.dtype) -> None:
    module = operator()
    u = torch.randn(2, 30, D_MODEL)
    expected, filters = module(u), module.filter_fn.kernel(30)
    module.to(dtype)
    assert torch.equal(module.filter_fn.kernel(30), filters)
    y = module(u.to(dtype))
    assert y.dtype == dtype
    assert torch.linalg.vector_norm(y.float() - expected) <= 4 * torch.finfo(dtype).eps * torch.linalg.vector_norm(
        expected
    )
    assert module.float()(u).dtype == torch.float32
    assert torch.equal(module.filter_fn.kernel(30), filters)


def test_the_layer_of_the_published_configurations_is_taken_as_it_stands() -> None:
    published = {
        "_name_": "hyena",
        "emb_dim": 5,
        "filter_order": 64,
        "local_order": 3,
        "l_max": 130,
        "modulate": True,
        "w": 10,
        "lr": 6e-4,
        "wd": 0.0,
        "lr_pos_emb": 0.0,
    }
    module = HyenaOperator(16, **published)
    assert module.l_max == 130
    assert module.short_filter.kernel_size == (3,)
    HyenaOperator(16, **{**published, "local_order": 7})
    with pytest.raises(NotImplementedError, match="_name_='s4' is not supported"):
        HyenaOperator(16, **{**published, "_name_": "s4"})


def test_dropout_alone_in_training_drops() -> None:
    """As in Monte-Carlo dropout, where all else is in ``eval()``."""
    module = operator(dropout=0.5).double().eval()
    u = torch.randn(2, 30, D_MODEL, dtype=torch.float64)
    exact = module(u)
    module.dropout.train()
    assert not torch.equal(module(u), exact)
    module.train()
    module.dropout.eval()
    assert torch.equal(module(u), exact)


def test_gradients_in_sixteen_bits_survive_the_change_of_dtype() -> None:
    module = operator(lr_pos_emb=1e-5)
    module(torch.randn(1, 20, D_MODEL)).sum().backward()
    module.bfloat16()
    assert module.filter_fn.pos_emb.z.grad.dtype == torch.float32
    assert module.in_proj.weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_positions_of_a_model_made_in_another_default_dtype(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    expected = HyenaOperator(D_MODEL, L_MAX, **PUBLISHED).filter_fn
    try:
        torch.set_default_dtype(dtype)
        own = HyenaOperator(D_MODEL, L_MAX, **PUBLISHED).filter_fn
    finally:
        torch.set_default_dtype(before)
    wide = torch.promote_types(dtype, torch.float32)
    for name in ("pos_emb.z", "pos_emb.t", "modulation.deltas"):
        tensor = own.get_buffer(name)
        assert tensor.dtype == wide
        torch.testing.assert_close(tensor, expected.get_buffer(name).to(wide), rtol=0, atol=1e-6)


def test_double_computes_wholly_in_float64() -> None:
    module = operator().double()
    u = torch.randn(1, 20, D_MODEL, dtype=torch.float64)
    narrow = copy.deepcopy(module).float()(u.float())
    y = module(u)
    assert y.dtype == torch.float64
    assert module.filter_fn.kernel(20).dtype == torch.float64
    assert 1e-9 < (y - narrow).abs().max() < 1e-4


def test_reset_buffers_restores_positions_and_decay_rates() -> None:
    module = HyenaOperator(D_MODEL, L_MAX, **PUBLISHED)
    expected = module.state_dict()
    with torch.device("meta"):
        other = HyenaOperator(D_MODEL, L_MAX, **PUBLISHED)
    assert other.filter_fn.pos_emb.z.is_meta
    other.to_empty(device="cpu")
    other.load_state_dict({n: t for n, t in expected.items() if "pos_emb" not in n and "deltas" not in n}, strict=False)
    other.filter_fn.reset_buffers()
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_buffers_are_made_on_meta_where_linspace_has_been_replaced_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import _device

    replaced = _device._device_constructors() - {torch.linspace}
    monkeypatch.setattr(_device, "_device_constructors", lambda: replaced)
    with torch.device("meta"):
        assert torch.linspace(0, 1, 2).device.type == "cpu"
        buffers = dict(HyenaOperator(D_MODEL, L_MAX, **PUBLISHED).named_buffers())
    assert len(buffers) >= 3
    assert all(buffer.is_meta for buffer in buffers.values())


def test_runs_on_the_meta_device() -> None:
    module = operator().to("meta")
    y = module(torch.empty(2, 10, D_MODEL, device="meta"))
    assert y.is_meta
    assert y.shape == (2, 10, D_MODEL)
    y.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in module.parameters())


def test_autocast_runs_in_bfloat16_with_filters_in_float32() -> None:
    module = operator()
    u = torch.randn(2, 30, D_MODEL)
    expected = module(u)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(u)
        k = module.filter_fn.kernel(30)
    assert y.dtype == torch.bfloat16
    assert torch.equal(k, module.filter_fn.kernel(30))
    error = torch.linalg.vector_norm(y.float() - expected) / torch.linalg.vector_norm(expected)
    assert 0 < error <= 4 * torch.finfo(torch.bfloat16).eps
    y.sum().backward()
    assert {p.grad.dtype for p in module.parameters()} == {torch.float32}


def test_frozen_parameters_have_no_gradient() -> None:
    module = operator()
    u = torch.randn(2, 30, D_MODEL)
    expected = gradients(module, module, u)
    module.filter_fn.requires_grad_(False)
    y = module(u)
    torch.manual_seed(1)
    module.zero_grad()
    y.backward(torch.randn_like(y))
    for name, parameter in module.named_parameters():
        if name.startswith("filter_fn"):
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, expected[name]), name


def test_empty_batch() -> None:
    module = operator()
    y = module(torch.zeros(0, 10, D_MODEL))
    assert y.shape == (0, 10, D_MODEL)
    y.sum().backward()
    assert all(not parameter.grad.any() for parameter in module.parameters())


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written() -> None:
    module = operator(3)
    for value in gradients(module, module, torch.randn(2, 30, D_MODEL)).values():
        assert not value.isnan().any()


def test_a_row_of_a_batch_equals_the_row_alone() -> None:
    module = operator().double()
    u = torch.randn(3, 30, D_MODEL, dtype=torch.float64)
    whole = module(u)
    for row in range(3):
        torch.testing.assert_close(whole[row : row + 1], module(u[row : row + 1]), rtol=1e-12, atol=1e-13)


def test_a_shorter_input_gives_the_start_of_a_longer_one() -> None:
    module = operator().double()
    u = torch.randn(1, L_MAX, D_MODEL, dtype=torch.float64)
    torch.testing.assert_close(module(u[:, :17]), module(u)[:, :17], rtol=1e-11, atol=1e-12)


def test_backend_of_the_operator_is_that_of_its_ops() -> None:
    u = torch.randn(1, 10, D_MODEL)
    assert operator(backend="torch")(u).shape == u.shape
    with pytest.raises(BackendError, match="implicit_filter_fwd"):
        operator(backend="triton")(u)
    with use_backend("triton"):
        assert operator(backend="torch")(u).shape == u.shape


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 3])
def test_compiles_once_for_all_lengths(order: int) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    module = operator(order)
    compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
    compilations = []
    for length in (20, 33, 7, L_MAX, 11):
        u = torch.randn(2, length, D_MODEL)
        results, expected = gradients(compiled, module, u), gradients(module, module, u)
        assert_close(results, expected, 1e-6)
        compilations.append(counter.frame_count)
    assert compilations[0] in (1, 2)
    assert set(compilations) == {compilations[0]}

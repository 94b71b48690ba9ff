"""Wrapped, hooked and quantized layers of filter and operator; the shared frequency; filters in models of 16 bits."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from hyena_kernels import HyenaFilter, HyenaOperator
from hyena_kernels.operator import Sin


class Wrapped(nn.Module):
    """A layer that adds to its output, as LoRA does. A plain attribute switches that on and off."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.weight = layer.weight
        self.bias = layer.bias
        self.added = nn.Parameter(torch.tensor(0.25, dtype=layer.weight.dtype))
        self.active = True

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.added if self.active else self.layer(x)


@pytest.mark.parametrize("wrapped", ["filter_fn.implicit_filter.0", "filter_fn.implicit_filter.6", "short_filter"])
def test_layers_that_were_wrapped_compute_what_they_say(wrapped: str) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).double().eval()
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    with torch.no_grad():
        plain = operator(u)
        layer = Wrapped(operator.get_submodule(wrapped))
        operator.set_submodule(wrapped, layer)
        changed = operator(u)
        assert (changed - plain).abs().max() > 1e-3
        layer.active = False
        assert (operator(u) - plain).abs().max() < 1e-12
        layer.active = True
        assert torch.equal(operator(u), changed)
    operator(u).sum().backward()
    assert layer.added.grad is not None
    assert layer.added.grad.abs() > 0


class Doubled(nn.Linear):
    """A layer of another class, as in loralib."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledConv(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledSin(Sin):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _doubled(layer: nn.Module, way: str) -> None:
    """Double the output of a layer. With "hook before", double its input."""
    plain = layer.forward
    if way == "subclass":
        kinds: dict[type, type] = {nn.Linear: Doubled, nn.Conv1d: DoubledConv, Sin: DoubledSin}
        layer.__class__ = kinds[type(layer)]
    elif way == "hook":
        layer.register_forward_hook(lambda module, args, result: 2 * result)
    elif way == "hook before":
        layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    else:
        layer.forward = lambda x: 2 * plain(x)


@pytest.mark.parametrize("way", ["subclass", "hook", "hook before", "replaced"])
@pytest.mark.parametrize("name", ["filter_fn.implicit_filter.0", "filter_fn.implicit_filter.5", "short_filter"])
def test_layers_that_were_changed_compute_what_they_say(name: str, way: str) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).double().eval()
    other = copy.deepcopy(operator)
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    with torch.no_grad():
        before = operator(u)
        _doubled(operator.get_submodule(name), way)
        parts = other.get_submodule(name), Scaled()
        wrapped = nn.Sequential(*(reversed(parts) if way == "hook before" else parts))
        other.set_submodule(name, wrapped)
        torch.testing.assert_close(operator(u), other(u), rtol=1e-12, atol=1e-12)
        assert not torch.equal(operator(u), before)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_wrapped_layer_gives_the_filter_of_the_layer_that_it_equals() -> None:
    filters = HyenaFilter(8, emb_dim=5, order=16, seq_len=32, lr_pos_emb=0.0)
    filters.implicit_filter[0] = Wrapped(filters.implicit_filter[0])
    by_layers = filters.kernel(20)
    with torch.no_grad():
        filters.implicit_filter[0].layer.bias += 0.25
    filters.implicit_filter[0] = filters.implicit_filter[0].layer
    expected = filters.kernel(20)
    assert by_layers.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(by_layers, expected, rtol=0, atol=1e-6)


def by_modules(filters: HyenaFilter, length: int) -> Tensor:
    """The filters ``(D, L)`` as the published code computes them."""
    z, t = filters.pos_emb(length)
    return filters.modulation(t, filters.implicit_filter(z))[0].t()


PARAMETRIZED: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "weight_norm of old": nn.utils.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("name", ["filter_fn.implicit_filter.2", "short_filter"])
@pytest.mark.parametrize("way", PARAMETRIZED)
def test_parametrized_layers_compute_what_they_say(way: str, name: str) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).double().eval()
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    with torch.no_grad():
        before = operator(u)
        PARAMETRIZED[way](operator.get_submodule(name))
        operator.get_submodule(name).bias.add_(0.1)
        changed = operator(u)
        assert not torch.equal(changed, before)
        torch.testing.assert_close(
            operator.filter_fn.kernel(20), by_modules(operator.filter_fn, 20), rtol=1e-12, atol=1e-12
        )
        if name == "short_filter":
            p = operator.short_filter(operator.in_proj(u).transpose(1, 2))[..., :20]
            x0, x1, v = p.split(8, dim=1)
            y = operator.out_proj((operator.filter_fn(v * x1, 20) * x0).transpose(1, 2))
            torch.testing.assert_close(changed, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["implicit_filter", "modulation", "pos_emb"])
def test_hooks_on_the_parts_of_a_filter_run(name: str) -> None:
    filters = HyenaFilter(8, emb_dim=5, order=16, seq_len=32).double()
    before = filters.kernel(20)

    def doubled(module: nn.Module, args: Any, result: Any) -> Any:
        return (2 * result[0], result[1]) if name == "pos_emb" else 2 * result

    filters.get_submodule(name).register_forward_hook(doubled)
    assert not torch.equal(filters.kernel(20), before)
    torch.testing.assert_close(filters.kernel(20), by_modules(filters, 20), rtol=1e-12, atol=1e-12)


def test_the_operator_calls_its_filter_as_a_module() -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).eval()
    u = torch.randn(2, 20, 8)
    y, own, seen = operator(u), operator.filter_fn, []
    with own.register_forward_hook(lambda module, args, result: seen.append(result)):
        assert torch.equal(operator(u), y)
    ((k, skip),) = seen
    assert torch.equal(k, own.kernel(20))
    assert torch.equal(skip, own.bias)
    with own.register_forward_hook(lambda module, args, result: (2 * result[0], result[1])):
        changed = operator(u)
    with torch.no_grad():
        own.implicit_filter[6].weight.mul_(2)
    torch.testing.assert_close(changed, operator(u))
    own.register_forward_hook(lambda module, args, result: result[0])
    with pytest.raises(TypeError, match=r"filter_fn\(None, L\) has to return two tensors.*got Tensor: a hook"):
        operator(u)


def test_a_filter_method_of_a_subclass_is_used() -> None:
    class Halved(HyenaFilter):
        def filter(self, L: int, *args: Any, **kwargs: Any) -> Tensor:
            return super().filter(L) / 2

    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).double()
    other = copy.deepcopy(operator)
    other.filter_fn.__class__ = Halved
    with torch.no_grad():
        operator.filter_fn.implicit_filter[6].weight.div_(2)
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(other(u), operator(u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_offloaded_weights_are_fetched(order: int) -> None:
    accelerate = pytest.importorskip("accelerate")
    operator = HyenaOperator(8, 32, order, emb_dim=5, filter_order=16)
    u = torch.randn(2, 20, 8)
    expected = operator(u)
    offloaded = accelerate.cpu_offload(operator, execution_device="cpu")
    assert offloaded.filter_fn.bias.is_meta
    torch.testing.assert_close(offloaded(u), expected)


class Quantized(Tensor):
    """A weight that knows the ops of a Linear layer and no other, as those of torchao do."""

    values: Tensor
    KNOWN = (torch.ops.aten.t.default, torch.ops.aten.detach.default, torch.ops.aten.mm.default)

    @staticmethod
    def __new__(cls, values: Tensor) -> Quantized:
        result = Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, device=values.device)
        result.values = values
        return result

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [arg.values if isinstance(arg, cls) else arg for arg in args]
        if func is torch.ops.aten.addmm.default:
            return plain[0] + plain[1] @ plain[2]
        if func not in cls.KNOWN:
            raise NotImplementedError(f"{func} of quantized weights")
        found = func(*plain, **(kwargs or {}))
        return found if func is torch.ops.aten.mm.default else cls(found)


@torch.no_grad()
def test_weights_of_another_tensor_class_go_through_their_layers() -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).eval()
    u = torch.randn(2, 20, 8)
    expected = operator(u)
    for module in operator.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(Quantized(module.weight.detach()), requires_grad=False)
    torch.testing.assert_close(operator(u), expected)


def frequencies(module: nn.Module) -> list[Tensor]:
    return [layer.freq for layer in module.modules() if isinstance(layer, Sin)]


def loaded_with_assign(operator: HyenaOperator) -> HyenaOperator:
    other = copy.deepcopy(operator)
    other.load_state_dict(operator.state_dict(), assign=True)
    return other


def unpickled(operator: HyenaOperator) -> HyenaOperator:
    buffer = io.BytesIO()
    torch.save(operator, buffer)
    buffer.seek(0)
    loaded: HyenaOperator = torch.load(buffer, weights_only=False)
    return loaded


WAYS: dict[str, Callable[[HyenaOperator], HyenaOperator]] = {
    "new": lambda operator: operator,
    "deepcopy": copy.deepcopy,
    "pickle": lambda operator: pickle.loads(pickle.dumps(operator)),
    "torch.save": unpickled,
    "double": lambda operator: operator.double(),
    "meta": lambda operator: operator.to("meta"),
    "to_empty": lambda operator: operator.to("meta").to_empty(device="cpu"),
    "bfloat16": lambda operator: operator.bfloat16(),
    "assign": loaded_with_assign,
}


@pytest.mark.parametrize("train_freq", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_sines_share_one_frequency(way: str, train_freq: bool) -> None:
    operator = WAYS[way](HyenaOperator(8, 32, emb_dim=5, filter_order=16, train_freq=train_freq))
    first, second, third = frequencies(operator)
    assert first is second is third
    names = [name for name, _ in operator.named_parameters() if name.endswith("freq")]
    assert names == (["filter_fn.implicit_filter.1.freq"] if train_freq else [])
    assert len({id(layer) for layer in operator.filter_fn.implicit_filter[1::2]}) == 3


@pytest.mark.parametrize("flag", ["overwrite_module_params_on_conversion", "swap_module_params_on_conversion"])
def test_sines_share_one_frequency_under_the_settings_of_torch_to_come(flag: str) -> None:
    getattr(torch.__future__, f"set_{flag}")(True)
    try:
        operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).double()
    finally:
        getattr(torch.__future__, f"set_{flag}")(False)
    first, second, third = frequencies(operator)
    assert first is second is third
    assert first.dtype == torch.float64


def test_a_function_is_applied_to_the_frequency_once() -> None:
    filters = HyenaFilter(8, emb_dim=5, order=16, seq_len=32, w=3)
    filters._apply(lambda tensor: 2 * tensor)
    assert all((freq == 6).all() for freq in frequencies(filters))


@pytest.mark.parametrize("keys", ["parameters", "state_dict"])
def test_functional_call_leaves_the_module_as_it_is(keys: str) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16)
    u = torch.randn(2, 20, 8)
    before, state = operator(u), copy.deepcopy(operator.state_dict())
    own = dict(operator.named_parameters()) if keys == "parameters" else operator.state_dict()
    doubled = {name: 2 * tensor for name, tensor in own.items()}
    found = torch.func.functional_call(operator, doubled, (u,), tie_weights=keys == "parameters")
    assert torch.equal(operator(u), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in operator.state_dict().items())
    other = copy.deepcopy(operator)
    other.load_state_dict(doubled, strict=False)
    torch.testing.assert_close(found, other(u))


def test_one_name_of_the_frequency_is_enough_to_load() -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16, w=7)
    for place in ("1", "5"):
        dropped = {f"filter_fn.implicit_filter.{other}.freq" for other in "135" if other != place}
        weights = {name: tensor for name, tensor in operator.state_dict().items() if name not in dropped}
        other = HyenaOperator(8, 32, emb_dim=5, filter_order=16)
        other.load_state_dict(weights)
        assert all((freq == 7).all() for freq in frequencies(other))
        assert set(weights) == set(operator.state_dict()) - dropped


@pytest.mark.parametrize("assign", [False, True])
def test_sines_of_several_frequencies_are_refused(assign: bool) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16)
    name = "filter_fn.implicit_filter.3.freq"
    weights = {**operator.state_dict(), name: operator.state_dict()[name] + 1}
    with pytest.raises(RuntimeError, match=re.escape(f"{name} differs from filter_fn.implicit_filter.1.freq")):
        operator.load_state_dict(weights, assign=assign)


@pytest.mark.parametrize("values", ["equal", "different"])
def test_sines_that_no_longer_share_compute_with_their_own(values: str) -> None:
    filters = HyenaFilter(8, emb_dim=5, order=16, seq_len=32).double()
    before = filters.kernel(20)
    for i, place in enumerate((3, 5)):
        filters.implicit_filter[place].freq = nn.Parameter(
            filters.implicit_filter[1].freq.detach() + (values == "different") * (i + 1)
        )
    assert torch.allclose(filters.kernel(20), before, rtol=1e-12, atol=1e-12) == (values == "equal")
    torch.testing.assert_close(filters.kernel(20), by_modules(filters, 20), rtol=1e-12, atol=1e-12)


def made_in(dtype: torch.dtype, **options: Any) -> HyenaOperator:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        torch.manual_seed(3)
        return HyenaOperator(8, 32, emb_dim=5, filter_order=16, **options)
    finally:
        torch.set_default_dtype(before)


def assigned(dtype: torch.dtype) -> HyenaOperator:
    operator = made_in(torch.float32)
    operator.load_state_dict({name: x.to(dtype) for name, x in operator.state_dict().items()}, assign=True)
    return operator


NARROWED: dict[str, Callable[[torch.dtype], HyenaOperator]] = {
    "bfloat16() or half()": lambda dtype: (
        getattr(made_in(torch.float32), str(dtype).removeprefix("torch."))()
        if dtype == torch.bfloat16
        else made_in(torch.float32).half()
    ),
    "to(dtype)": lambda dtype: made_in(torch.float32).to(dtype),
    "to(tensor)": lambda dtype: made_in(torch.float32).to(torch.zeros(1, dtype=dtype)),
    "type(dtype)": lambda dtype: made_in(torch.float32).type(dtype),
    "from float64": lambda dtype: made_in(torch.float64).to(dtype),
    "twice": lambda dtype: copy.deepcopy(made_in(torch.float32).to(dtype)).to(dtype),
    "default dtype": made_in,
    "positions as parameters": lambda dtype: made_in(torch.float32, lr_pos_emb=1e-5, modulation_lr=1e-3).to(dtype),
    "frequency as buffer": lambda dtype: made_in(torch.float32, train_freq=False).to(dtype),
    "to_empty": lambda dtype: made_in(dtype).to("meta").to_empty(device="cpu"),
    "assign": assigned,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", NARROWED)
def test_filters_stay_in_float32(way: str, dtype: torch.dtype) -> None:
    operator = NARROWED[way](dtype)
    own = operator.filter_fn
    assert {tensor.dtype for tensor in (*own.parameters(), *own.buffers())} == {torch.float32}
    assert {tensor.dtype for name, tensor in operator.named_parameters() if "filter_fn" not in name} == {dtype}
    assert own.kernel(20).dtype == torch.float32
    y = operator(torch.randn(2, 20, 8, dtype=dtype))
    assert y.dtype == dtype
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in operator.parameters())
    if way not in ("assign", "to_empty", "default dtype"):
        exact = made_in(torch.float64 if way == "from float64" else torch.float32).filter_fn.kernel(20)
        torch.testing.assert_close(own.kernel(20).to(exact.dtype), exact, rtol=0, atol=1e-6)


def test_filters_are_loaded_in_float32_into_a_part_of_the_model() -> None:
    filters = HyenaFilter(8, emb_dim=5, order=16, seq_len=32)
    for part in (filters, filters.implicit_filter, filters.pos_emb, filters.modulation):
        part.load_state_dict({name: x.bfloat16() for name, x in part.state_dict().items()}, assign=True)
        assert {tensor.dtype for tensor in part.state_dict().values()} == {torch.float32}
    first, second, third = frequencies(filters)
    assert first is second is third


NAMES = ["bias", "implicit_filter.0.bias", "implicit_filter.5.freq", "implicit_filter.6.weight", "pos_emb.z"]


@pytest.mark.parametrize("by_layers", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "modulation.deltas"])
def test_a_tensor_that_was_cast_in_place_is_refused(name: str, by_layers: bool) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16)
    own = operator.filter_fn
    if by_layers:
        own.implicit_filter.register_forward_hook(lambda module, args, result: None)
    place, _, leaf = name.rpartition(".")
    tensor = getattr(own.get_submodule(place), leaf)
    tensor.data = tensor.data.bfloat16()
    u = torch.randn(2, 20, 8)
    with pytest.raises(TypeError, match=r"MixedPrecisionPolicy\(param_dtype=torch.bfloat16\)") as raised:
        operator(u)
    assert "has dtype torch.bfloat16, and filters need float32" in str(raised.value)
    assert "\n" not in str(raised.value)
    own.float()
    assert operator(u).isfinite().all()


def test_autocast_leaves_wrapped_filters_in_float32() -> None:
    filters = HyenaFilter(8, emb_dim=5, order=16, seq_len=32)
    filters.implicit_filter.register_forward_hook(lambda module, args, result: None)
    expected = filters.kernel(20)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(filters.kernel(20), expected)

"""Every argument of ``HyenaOperator`` and ``HyenaFilter`` reaches the result, or is refused."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import pytest
import torch

from hyena_kernels import BackendError, FarFieldError, HyenaFilter, HyenaOperator
from hyena_kernels.operator import ExponentialModulation


class Same(NamedTuple):
    """A value that leaves the result as it is, and why."""

    value: Any
    why: str


class Refused(NamedTuple):
    """A value that is refused, and the error."""

    value: Any
    error: type[Exception] = NotImplementedError


FILTER: dict[str, Any] = {
    "d_model": 6,
    "emb_dim": 5,
    "order": 12,
    "fused_fft_conv": Same(True, "the original's choice of a kernel"),
    "seq_len": 20,
    "lr": Same(1e-4, "read by an optimizer"),
    "lr_pos_emb": Same(0.0, "read by an optimizer"),
    "dropout": Refused(0.1),
    "w": 2.0,
    "wd": Same(0.1, "read by an optimizer"),
    "bias": False,
    "num_inner_mlps": 1,
    "normalized": Refused(True),
    "linear_mixer": Refused(True),
    "bidirectional": True,
    "train_freq": Same(False, "the start is the same"),
    "channels": Refused(2),
    "fast_decay_pct": 0.2,
    "slow_decay_pct": 1.0,
    "target": 0.1,
    "modulation_lr": Same(1e-3, "read by an optimizer"),
    "modulate": False,
    "shift": 0.0,
}
"""Another value of each argument of HyenaFilter, and of the window that it passes on."""

OPERATOR: dict[str, Any] = {
    "d_model": 4,
    "l_max": 20,
    "order": 3,
    "filter_order": 12,
    "dropout": 0.5,
    "filter_dropout": Refused(0.1),
    "num_heads": Refused(2),
    "inner_factor": Refused(2),
    "num_blocks": Refused(2),
    "fused_bias_fc": Same(True, "the original's choice of a kernel"),
    "outer_mixing": Refused(True),
    "filter_cls": Refused("other"),
    "post_order_ffn": Refused(True),
    "jit_filter": Refused(True),
    "short_filter_order": 4,
    "filter_length": 5,
    "activation": "gelu",
    "_name_": Refused("other"),
    "local_order": Same(4, "the original does not read it"),
    "return_state": True,
    "backend": Refused("triton", BackendError),
    "long_conv": Refused("far_field", FarFieldError),
    **{name: value for name, value in FILTER.items() if name not in ("d_model", "order", "seq_len", "dropout")},
}
"""Another value of each argument of HyenaOperator. Those of the filter are passed on."""

# A change of these changes nothing by itself: dropout is for training.
OPERATOR_BASE: dict[str, Any] = {"d_model": 6, "l_max": 16, "filter_order": 8}
FILTER_BASE: dict[str, Any] = {"d_model": 4, "order": 8, "seq_len": 16}


def seen(module: torch.nn.Module) -> dict[str, Any]:
    """The output in training and its kind, from the same weights and the same input."""
    torch.manual_seed(2)
    operator = isinstance(module, HyenaOperator)
    u = torch.randn(2, 12, module.d_model) if operator else torch.randn(2, module.d_model, 12)
    out = module.train()(u) if operator else module(u, 12)
    return {"kind": type(out), "y": out[0] if isinstance(out, tuple) else out}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(HyenaOperator, name) for name in OPERATOR] + [(HyenaFilter, name) for name in FILTER],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_argument_reaches_the_result(kind: Any, name: str) -> None:
    base, table = (OPERATOR_BASE, OPERATOR) if kind is HyenaOperator else (FILTER_BASE, FILTER)
    change = table[name]

    def made(**changes: Any) -> Any:
        torch.manual_seed(1)
        return kind(**base | changes)

    if isinstance(change, Refused):
        with pytest.raises(change.error):
            seen(made(**{name: change.value}))
        return
    before = seen(made())
    after = seen(made(**{name: change.value if isinstance(change, Same) else change}))
    equal = before["kind"] is after["kind"] and torch.equal(before["y"], after["y"])
    assert equal == isinstance(change, Same)


def test_every_argument_has_a_line() -> None:
    window = {*inspect.signature(ExponentialModulation).parameters} - {"d_model"}
    for kind, table, more in (
        (HyenaFilter, FILTER, window),
        (HyenaOperator, OPERATOR, {*FILTER} - {"d_model", "order", "seq_len", "dropout"}),
    ):
        parameters = inspect.signature(kind).parameters.values()
        names = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        assert names | more == table.keys()


def test_what_an_optimizer_reads_is_there() -> None:
    """The training code gives parameters their own rate and decay by ``_optim``."""
    module = HyenaFilter(4, lr=0.25, wd=0.5, lr_pos_emb=0.125, modulation_lr=0.0625)
    assert {tuple(sorted(p._optim.items())) for p in module.implicit_filter.parameters()} == {  # type: ignore[attr-defined]
        (("lr", 0.25), ("weight_decay", 0.5))
    }
    assert module.pos_emb.z._optim == {"lr": 0.125, "weight_decay": 0.0}  # type: ignore[attr-defined]
    assert module.modulation.deltas._optim == {"lr": 0.0625, "weight_decay": 0.0}  # type: ignore[attr-defined]
    without = HyenaFilter(4, lr=None, wd=0.5, lr_pos_emb=None)
    assert {tuple(p._optim.items()) for p in without.implicit_filter.parameters()} == {(("weight_decay", 0.5),)}  # type: ignore[attr-defined]
    assert without.pos_emb.z._optim == {"weight_decay": 0.0}  # type: ignore[attr-defined]
    trained = {name for name, _ in HyenaFilter(4, train_freq=False, lr_pos_emb=0.0).named_parameters()}
    assert not any("freq" in name or "pos_emb" in name for name in trained)
    assert any("freq" in name for name, _ in HyenaFilter(4).named_parameters())


@pytest.mark.parametrize("fused", [True, False])
def test_filters_are_new_after_a_step_of_the_optimizer(fused: bool) -> None:
    """A backward pass, ``eval()``, a call without gradients, a step: the next call has the stepped weights."""
    torch.manual_seed(0)
    module = HyenaOperator(**OPERATOR_BASE)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=fused)
    u = torch.randn(1, 12, 6)
    for _ in range(2):
        module.train()(u).square().sum().backward()
        module.eval()
        with torch.no_grad():
            before = module(u)
        optimizer.step()
        with torch.no_grad():
            after = module(u)
            fresh = HyenaOperator(**OPERATOR_BASE)
            fresh.load_state_dict(module.state_dict())
            assert torch.equal(after, fresh.eval()(u))
        assert not torch.equal(before, after)

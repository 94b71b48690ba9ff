"""The MLP of a block on a CPU, whose backward pass is written out, against the modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hyena_kernels import use_backend
from hyenadna.model import mlp
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.layers import HyenaDNABlock


@pytest.fixture
def block() -> HyenaDNABlock:
    torch.manual_seed(0)
    made = HyenaDNABlock(HyenaDNAConfig(d_model=8, n_layer=1, d_inner=32, max_seq_len=64)).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def parts(block: HyenaDNABlock) -> dict[str, Tensor]:
    return {name: each for name, each in block.named_parameters() if name.startswith(("norm2.", "mlp."))}


def by_modules(block: HyenaDNABlock, residual: Tensor) -> Tensor:
    return residual + block.mlp(block.norm2(residual))


def written_out(block: HyenaDNABlock, residual: Tensor) -> Tensor:
    return mlp.add_mlp(residual, block.norm2, block.mlp.fc1, block.mlp.fc2)


def results(
    function: Callable[[HyenaDNABlock, Tensor], Tensor], block: HyenaDNABlock, residual: Tensor
) -> dict[str, Tensor]:
    leaf = residual.detach().requires_grad_()
    wanted = {"residual": leaf, **{name: each for name, each in parts(block).items() if each.requires_grad}}
    added = function(block, leaf)
    grad = torch.randn(added.shape, dtype=added.dtype, generator=torch.Generator().manual_seed(1))
    return {
        "added": added.detach(),
        **dict(zip(wanted, torch.autograd.grad(added, wanted.values(), grad), strict=True)),
    }


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert (value - expected[name]).norm() <= 1e-13 * expected[name].norm(), name


@pytest.mark.parametrize("kept", [0, 1 << 30], ids=["computed again", "kept"])
@pytest.mark.parametrize("positions", [1, 7, 50, 1000])
@pytest.mark.parametrize("backend", [None, "torch"])
def test_equals_the_modules(
    block: HyenaDNABlock, positions: int, kept: int, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    residual = torch.randn(3, 17, 8, dtype=torch.float64)
    expected = results(by_modules, block, residual)
    monkeypatch.setattr(mlp, "POSITIONS", positions)
    monkeypatch.setattr(mlp, "KEPT_BYTES", kept)
    with use_backend(backend):
        found = results(written_out, block, residual)
        again = results(written_out, block, residual)
    assert_close(found, expected)
    assert all(torch.equal(value, again[name]) for name, value in found.items())


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written(block: HyenaDNABlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "POSITIONS", 5)
    for value in results(written_out, block, torch.randn(2, 6, 8, dtype=torch.float64)).values():
        assert not value.isnan().any()


@pytest.mark.parametrize("frozen", ["norm2.weight", "norm2.bias", "mlp.fc1", "mlp.fc2", "mlp.fc1.weight", ""])
@pytest.mark.parametrize("kept", [0, 1 << 30], ids=["computed again", "kept"])
def test_frozen_weights(block: HyenaDNABlock, frozen: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, parameter in parts(block).items():
        parameter.requires_grad_(not name.startswith(frozen))
    monkeypatch.setattr(mlp, "KEPT_BYTES", kept)
    residual = torch.randn(1, 11, 8, dtype=torch.float64)
    assert_close(results(written_out, block, residual), results(by_modules, block, residual))


def test_a_small_hidden_layer_is_kept(block: HyenaDNABlock, monkeypatch: pytest.MonkeyPatch) -> None:
    residual = torch.randn(1, 40, 8, dtype=torch.float64, requires_grad=True)
    shapes: list[tuple[int, ...]] = []
    for most in (40 * 32 * 8 - 1, 40 * 32 * 8):
        monkeypatch.setattr(mlp, "KEPT_BYTES", most)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)), lambda t: t):
            written_out(block, residual)
        assert ((40, 32) in shapes) == (most == 40 * 32 * 8)


def can_add(block: HyenaDNABlock, residual: Tensor) -> bool:
    return mlp.can_add_mlp(residual, residual, block.norm2, block.mlp.fc1, block.mlp.fc2)


def test_what_it_takes(block: HyenaDNABlock) -> None:
    residual = torch.randn(1, 5, 8)
    assert can_add(block, residual.double())
    assert can_add(block.float(), residual)
    assert not can_add(block, residual.double())
    assert not can_add(block, nn.Parameter(residual))
    assert not can_add(block.to("meta"), residual.to("meta"))
    assert not can_add(block.bfloat16(), residual.bfloat16())


def test_what_it_leaves_to_the_modules(block: HyenaDNABlock) -> None:
    residual = torch.randn(1, 5, 8, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_add(block, residual)
    assert not any(torch.func.vmap(lambda each: each + can_add(block, each))(residual).sub(residual).flatten())
    handle = block.mlp.fc1.register_forward_hook(lambda *args: None)
    assert not can_add(block, residual)
    handle.remove()
    assert can_add(block, residual)
    block.mlp.fc2 = nn.Linear(32, 8, bias=False).double()
    assert not can_add(block, residual)


def test_the_block_uses_it(block: HyenaDNABlock, monkeypatch: pytest.MonkeyPatch) -> None:
    residual = torch.randn(2, 9, 8, dtype=torch.float64)
    found = block(residual)
    # No view of its result: FSDP warns of those.
    assert type(found.grad_fn).__name__ == "_AddMLPBackward"
    monkeypatch.setattr("hyenadna.model.layers.can_add_mlp", lambda *args: False)
    torch.testing.assert_close(block(residual), found, rtol=1e-13, atol=1e-13)

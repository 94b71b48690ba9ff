"""The loss of the next token, from logits, from hidden states and from a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.model.layers import HyenaDNAEmbeddings, TokenEmbedding
from hyenadna.model.loss import next_token_loss, next_token_loss_of_states
from hyenadna.model.plain import is_plain_linear


def test_loss_counts_neither_n_nor_pad() -> None:
    logits = torch.randn(2, 6, 16, dtype=torch.float64)
    targets = torch.tensor([[7, 8, N_ID, 10, PAD_ID, 9], [PAD_ID, N_ID, 7, 7, 8, N_ID]])
    by_hand = sum(
        -logits[row, column].log_softmax(-1)[targets[row, column]]
        for row in range(2)
        for column in range(6)
        if targets[row, column] not in (N_ID, PAD_ID)
    )
    torch.testing.assert_close(next_token_loss(logits, targets), by_hand, rtol=1e-14, atol=0)
    assert next_token_loss(logits.half(), targets).dtype == torch.float32
    assert next_token_loss(logits, torch.full((2, 6), N_ID)) == 0
    # N counts where only pads are ignored.
    nats = -logits[0, 2].log_softmax(-1)[N_ID]
    torch.testing.assert_close(next_token_loss(logits[:1, 2:3], targets[:1, 2:3], ignored=(PAD_ID,)), nats)


class Doubled(nn.Linear):
    """A head that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    head = nn.Linear(8, 16, bias=False)
    head.register_forward_hook(lambda module, args, output: 3 * output)
    return head


def replaced() -> nn.Module:
    head = nn.Linear(8, 16, bias=False)
    head.forward = lambda x: x @ head.weight.T + 1  # type: ignore[method-assign]
    return head


HEADS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(8, 16, bias=False),
    "bias": lambda: nn.Linear(8, 16),
    "subclass": lambda: Doubled(8, 16, bias=False),
    "sequence": lambda: nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh()),
    "hook": hooked,
    "its own forward": replaced,
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 16, bias=False)),
}


@pytest.mark.parametrize("name", HEADS)
def test_loss_of_states_is_that_of_the_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = HEADS[name]()
    targets = torch.tensor([[7, 8, N_ID, 10, PAD_ID, 9], [PAD_ID, N_ID, 7, 7, 8, N_ID]])

    def gradients(loss_of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        hidden = torch.linspace(-2, 2, 96).view(2, 6, 8).requires_grad_()
        loss = loss_of(hidden)
        return [loss.detach(), *torch.autograd.grad(loss, [hidden, *head.parameters()])]

    expected = gradients(lambda hidden: next_token_loss(head(hidden), targets))
    made: list[int] = []
    monkeypatch.setattr(
        nn.Module, "__call__", lambda module, *args: made.append(1) or nn.Module._call_impl(module, *args)
    )
    found = gradients(lambda hidden: next_token_loss_of_states(hidden, head, targets))
    # All logits, unless the head is a linear layer and nothing else.
    assert bool(made) == (name != "plain")
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)


def test_what_is_plain() -> None:
    assert is_plain_linear(nn.Linear(2, 3, bias=False))
    assert not any(is_plain_linear(make()) for name, make in HEADS.items() if name != "plain")


@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": 0}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}], ids=str
)
def test_options_of_an_embedding_are_torchs(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours, torchs = TokenEmbedding(4, 2, **options), nn.Embedding(4, 2, **options)
    ours.load_state_dict(torchs.state_dict())
    ids = torch.tensor([[0, 1, 1, 3]])
    for table in (ours, torchs):
        table(ids).square().sum().backward()
    assert ("embedding_fwd" in ours(ids).grad_fn.name()) == (not options)
    torch.testing.assert_close(ours(ids), torchs(ids))
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)


def small(**fields: Any) -> HyenaDNAForCausalLM:
    torch.manual_seed(0)
    config = HyenaDNAConfig(**{"d_model": 8, "n_layer": 1, "filter_order": 8, "max_seq_len": 64} | fields)
    return HyenaDNAForCausalLM(config).eval()


def with_gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("pads", ["none", "left", "right"])
@pytest.mark.parametrize("tied", [True, False])
def test_model_gives_the_loss_of_its_logits_without_them(pads: str, tied: bool) -> None:
    model = small(tie_word_embeddings=tied)
    ids = torch.randint(7, 12, (3, 17))
    mask = torch.ones(3, 16, dtype=torch.long)
    mask[1, :4], mask[2, :9] = 0, 0
    mask = {"none": None, "left": mask, "right": mask.flip(1)}[pads]
    inputs, targets = ids[:, :-1], ids[:, 1:]
    if mask is not None:
        targets = targets.masked_fill(mask == 0, -100)
    labels = targets.masked_fill(targets == 11, -100)
    output = model(inputs, attention_mask=mask, shift_labels=labels)
    expected = with_gradients(model, output.loss * (labels != -100).sum())
    found = with_gradients(model, model.next_token_loss(inputs, targets, attention_mask=mask, ignored=(-100, 11)))
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def test_model_takes_targets_of_a_byte_and_keeps_float32_under_autocast() -> None:
    model = small()
    ids = torch.randint(7, 12, (2, 12), dtype=torch.uint8)
    wide = model.next_token_loss(ids[:, :-1], ids[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model.next_token_loss(ids[:, :-1], ids[:, 1:])
    assert wide.dtype == narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, rtol=1e-2, atol=0)
    assert model.double().next_token_loss(ids[:, :-1], ids[:, 1:]).dtype == torch.float64


def test_model_with_an_adapter_on_its_head_calls_it() -> None:
    model = small()
    ids = torch.randint(7, 12, (2, 12))
    plain = model.next_token_loss(ids[:, :-1], ids[:, 1:])
    model.lm_head.register_forward_hook(lambda module, args, output: output * 0)
    even = model.next_token_loss(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(even, torch.tensor(22 * torch.log(torch.tensor(16.0)).item()))
    assert plain != even


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": None}, "targets missing: must be (B, L)"),
        ({"targets": torch.zeros(2, 3, dtype=torch.long)}, "targets (2, 3): must be (B, L)"),
        ({"ignored": ()}, "ignored () must name at least one id"),
        ({"targets": torch.full((2, 4), 16)}, "labels hold the id 16: the logits have 16 columns"),
        ({"input_ids": None}, "input_ids"),
    ],
)
def test_model_refuses_targets_in_one_line(arguments: dict[str, Any], message: str) -> None:
    ids = torch.full((2, 4), 7)
    with pytest.raises(InputError) as raised:
        small().next_token_loss(**{"input_ids": ids, "targets": ids, **arguments})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_embedding_with_hooks_or_options_is_called() -> None:
    embeddings = HyenaDNAEmbeddings(HyenaDNAConfig(d_model=8))
    ids = torch.tensor([[7, 8, 7]], dtype=torch.uint8)
    plain = embeddings(ids)
    assert "embedding_fwd" in plain.grad_fn.name()
    table = embeddings.word_embeddings
    assert torch.equal(plain, table(ids.long()))
    handle = table.register_forward_hook(lambda module, args, output: 2 * output)
    assert torch.equal(embeddings(ids), 2 * plain)
    handle.remove()
    table.padding_idx = 7
    embeddings(ids).sum().backward()
    assert not table.weight.grad[7].any()
    assert table.weight.grad[8].all()

"""``HyenaCache``: token by token gives what the whole sequence gives."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from hyenadna import HyenaCache, HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAModel, InputError
from hyenadna.model import modeling

PAD = 4


def tiny(**fields: Any) -> Any:
    """A float64 model away from its start values, so that every part of it matters."""
    torch.manual_seed(0)
    small = {"d_model": 8, "filter_order": 8, "max_seq_len": 256, "embed_dropout": 0.0}
    model = HyenaDNAForCausalLM(HyenaDNAConfig(**small | fields)).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny()


def ids(*shape: int) -> Tensor:
    return torch.randint(7, 11, shape, generator=torch.Generator().manual_seed(1))


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    pads = [(width - len(row), 0) if side == "left" else (0, width - len(row)) for row in rows]
    masks = [F.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)]
    return torch.stack([F.pad(row, pad, value=PAD) for row, pad in zip(rows, pads, strict=True)]), torch.stack(masks)


def decoded(model: Any, cache: HyenaCache, rows: list[Tensor], lengths: tuple[int, ...], side: str) -> list[Tensor]:
    """Logits of each row at every position: the prompts at once, and each further token on its own."""
    prompts, mask = padded([row[:length] for row, length in zip(rows, lengths, strict=True)], side)
    first = model(prompts, attention_mask=mask, cache=cache).logits
    found = [[logits[mask[i].bool()]] for i, logits in enumerate(first)]
    for t in range(len(rows[0]) - lengths[0]):
        new = torch.stack([row[length + t] for row, length in zip(rows, lengths, strict=True)])
        logits = model(new[:, None], past_key_values=cache).logits
        for i in range(len(rows)):
            found[i].append(logits[i])
    return [torch.cat(parts) for parts in found]


@pytest.mark.parametrize(
    ("fields", "window", "lengths", "horizon", "side"),
    [
        ({}, 64, (1,), 129, "left"),
        ({}, 8, (65, 3, 64), 127, "right"),
        ({"hyena_order": 3, "short_filter_order": 4}, 1, (63, 2, 1), 65, "left"),
        ({"hyena_order": 3, "short_filter_order": 1, "use_bias": False}, 64, (120,), 2, "right"),
        ({"short_filter_order": 2, "max_seq_len": 1001}, 64, (1000, 64), 1, "left"),
    ],
)
def test_every_step_is_that_of_the_whole_sequence(
    fields: dict[str, Any], window: int, lengths: tuple[int, ...], horizon: int, side: str
) -> None:
    model = tiny(**fields)
    rows = [row[: length + horizon] for row, length in zip(ids(len(lengths), 1001), lengths, strict=True)]
    cache = HyenaCache(model, len(rows), horizon, window)
    for found, row in zip(decoded(model, cache, rows, lengths, side), rows, strict=True):
        expected = model(row[None]).logits[0]
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert cache.nbytes == HyenaCache.bytes_needed(model.config, len(rows), horizon, window, torch.float64)
    assert (cache.step, cache.get_seq_length(), cache.get_max_length()) == (horizon, *2 * (max(lengths) + horizon,))


def test_the_last_position_of_the_model_can_be_reached(model: Any) -> None:
    """The longest row fills ``max_seq_len``, although a horizon beyond it was asked for."""
    rows = list(ids(2, 256))
    cache = HyenaCache(model, 2, 1000)
    found = decoded(model, cache, rows, (200, 200), "left")
    assert cache.horizon == 56
    expected = model(torch.stack(rows)).logits
    assert (torch.stack(found) - expected).abs().max() <= 1e-12 * expected.abs().max()
    with pytest.raises(InputError, match="a sequence of 257 tokens is longer than this model's max_seq_len of 256"):
        model(ids(2, 1), cache=cache)


def test_float32_and_16_bits_are_as_exact_as_the_whole_sequence(model: Any) -> None:
    rows = list(ids(2, 100))
    exact = model(torch.stack(rows)).logits
    for dtype in (torch.float32, torch.bfloat16):
        narrow = copy.deepcopy(model).to(dtype)
        narrow.hyena.backbone.layers.apply(lambda m: m.float() if type(m).__name__ == "HyenaFilter" else m)
        whole = narrow(torch.stack(rows)).logits
        cache = HyenaCache(narrow, 2, 50, window=8)
        found = torch.stack(decoded(narrow, cache, rows, (50, 50), "left"))
        assert found.dtype == whole.dtype == dtype
        allowed = 2 * ((whole - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max())
        assert (found - exact).abs().max() <= allowed
        assert cache.state is not None
        assert (cache.state.u.dtype, cache.state.short.dtype) == (torch.float32, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = copy.deepcopy(model).float()
        whole = narrow(torch.stack(rows)).logits
        found = torch.stack(decoded(narrow, HyenaCache(narrow, 2, 50, window=8), rows, (50, 50), "left"))
    allowed = 2 * ((whole - exact).abs().max() + torch.finfo(torch.bfloat16).eps * exact.abs().max())
    assert (found - exact).abs().max() <= allowed


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of every call of the backbone."""
    seen: list[int] = []
    forward = HyenaDNAModel.forward

    def noted(self: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
        seen.append((kwargs["inputs_embeds"] if input_ids is None else input_ids).shape[1])
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(HyenaDNAModel, "forward", noted)
    return seen


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
    ],
)
def test_generate_gives_the_same_with_and_without_it(model: Any, widths: list[int], how: dict[str, Any]) -> None:
    prompts, mask = padded([ids(20), ids(5)], "left")
    given: list[dict[str, Tensor]] = [{"input_ids": prompts}]
    if how == {"do_sample": False}:
        given.append({"inputs_embeds": model.get_input_embeddings()(prompts)})
    for inputs in given:
        found = []
        for extra in ({}, {"use_cache": False}):
            widths.clear()
            torch.manual_seed(2)
            found.append(model.generate(**inputs, attention_mask=mask, max_new_tokens=12, **how, **extra))
            assert widths == [20, *([1] * 11 if not extra else range(21, 32))]
        assert torch.equal(*found)


def test_states_and_logits_of_generate(model: Any) -> None:
    settings = {"max_new_tokens": 5, "output_hidden_states": True, "output_logits": True, "do_sample": False}
    settings["return_dict_in_generate"] = True
    found, whole = (model.generate(ids(2, 9), **settings, use_cache=use) for use in (True, False))
    assert isinstance(found.past_key_values, HyenaCache)
    assert torch.equal(found.sequences, whole.sequences)
    for step in range(5):
        torch.testing.assert_close(found.logits[step], whole.logits[step], rtol=0, atol=1e-5)
        assert len(found.hidden_states[step]) == model.config.n_layer + 1
        for a, b in zip(found.hidden_states[step], whole.hidden_states[step], strict=True):
            torch.testing.assert_close(a, b[:, -a.shape[1] :], rtol=0, atol=1e-12)


def test_generate_goes_on_with_a_cache_of_before(model: Any, widths: list[int]) -> None:
    cache = HyenaCache(model, 2, 30)
    greedy = {"do_sample": False, "cache": cache}
    whole = model.generate(ids(2, 9), max_new_tokens=10, do_sample=False, use_cache=False)
    first = model.generate(ids(2, 9), max_new_tokens=4, **greedy)
    widths.clear()
    assert torch.equal(model.generate(first, max_new_tokens=6, **greedy), whole)
    assert widths == [1] * 6
    with pytest.raises(InputError, match="it has seen 18 positions; to go on, give input_ids with all of them"):
        model.generate(first, max_new_tokens=1, **greedy)
    with pytest.raises(InputError, match=r"31 tokens .* more than its horizon of 30; .* or lower max_new_tokens"):
        model.generate(whole, max_new_tokens=40, **greedy)


def test_several_tokens_at_once_and_their_states(model: Any) -> None:
    tokens = ids(2, 40)
    whole = model(tokens, output_hidden_states=True)
    cache = HyenaCache(model, 2, 30)
    model(tokens[:, :10], cache=cache)
    found = model(
        tokens[:, 10:],
        cache=cache,
        attention_mask=torch.ones(2, 40),
        position_ids=torch.arange(10, 40),
        output_hidden_states=True,
    )
    torch.testing.assert_close(found.logits, whole.logits[:, 10:], rtol=0, atol=1e-12)
    for a, b in zip(found.hidden_states, whole.hidden_states, strict=True):
        torch.testing.assert_close(a, b[:, 10:], rtol=0, atol=1e-12)


def test_rows_can_be_reordered_selected_and_repeated(model: Any) -> None:
    tokens = ids(3, 50)
    cache = HyenaCache(model, 3, 40, window=4)
    model(tokens[:, :30], cache=cache)
    order = torch.tensor([2, 0, 0])
    cache.reorder_cache(order)
    tokens = tokens[order]
    tokens[:, 30:] = ids(3, 20)
    model(tokens[:, 30:35], cache=cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([True, False, True, True, False, False]))
    tokens = tokens.repeat_interleave(2, dim=0)[[0, 2, 3]]
    others = [pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)]
    expected = model(tokens).logits[:, 35:]
    for each in (cache, *others):
        assert each.batch_size == 3
        torch.testing.assert_close(model(tokens[:, 35:], cache=each).logits, expected, rtol=0, atol=1e-12)
    cache.reset()
    assert (cache.nbytes, cache.get_seq_length(), cache.get_max_length()) == (0, 0, -1)
    model(tokens[:, :35], cache=cache)
    torch.testing.assert_close(model(tokens[:, 35:], cache=cache).logits, expected, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="tokens cannot be taken back out of it"):
        cache.crop(-1)


def test_inference_mode_may_end_between_calls(model: Any) -> None:
    tokens = ids(1, 40)
    cache = HyenaCache(model, 1, 30, window=8)
    with torch.inference_mode():
        model(tokens[:, :10], cache=cache)
        model(tokens[:, 10:30], cache=cache)
    found = model(tokens[:, 30:], cache=cache).logits
    torch.testing.assert_close(found, model(tokens).logits[:, 30:], rtol=0, atol=1e-12)


def test_adapters_and_hooks_on_dense_layers_have_their_effect() -> None:
    model = tiny()
    config = LoraConfig(r=2, target_modules=["in_proj", "out_proj", "fc1"], init_lora_weights=False)
    adapted = get_peft_model(model, config).double()
    block = model.hyena.backbone.layers[0]
    for module in (block.mlp, block.norm1, model.hyena.backbone.ln_f):
        module.register_forward_hook(lambda module, args, output: 1.5 * output)
    rows = list(ids(1, 60))
    found = decoded(adapted, HyenaCache(adapted, 1, 50), rows, (10,), "left")
    torch.testing.assert_close(found[0], adapted(rows[0][None]).logits[0], rtol=0, atol=1e-11)


class Doubled(nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * self.inner(*args, **kwargs)


def _replace_mixer(model: Any) -> None:
    model.hyena.backbone.layers[1].mixer = Doubled(model.hyena.backbone.layers[1].mixer)


def _hook_block(model: Any) -> None:
    model.hyena.backbone.layers[1].register_forward_hook(lambda module, args, output: 2 * output)


def _replace_short_filter(model: Any) -> None:
    model.hyena.backbone.layers[0].mixer.short_filter = Doubled(model.hyena.backbone.layers[0].mixer.short_filter)


def _replace_layer(model: Any) -> None:
    """As ``torch.compile`` does it."""
    model.hyena.backbone.layers[0] = Doubled(model.hyena.backbone.layers[0])


def _drop(model: Any) -> None:
    model.hyena.backbone.embed_dropout.p = 0.5
    model.hyena.backbone.embed_dropout.train()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_replace_mixer, "the mixer of layer 1 is of another class"),
        (_hook_block, "layer 1 is of another class, as after torch.compile, or has hooks"),
        (_replace_short_filter, "the short filter of layer 0 is of another class"),
        (_replace_layer, "layer 0 is of another class, as after torch.compile"),
        (_drop, "the dropout of the embedding is at work"),
    ],
)
def test_what_a_cache_cannot_honour_is_refused_and_generate_does_without(
    change: Callable[[Any], None], reason: str, widths: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny(n_layer=2)
    cache = HyenaCache(model, 1, 10)
    change(model)
    with pytest.raises(InputError, match=f"HyenaCache: {reason}.* use_cache=False"):
        HyenaCache(model, 1, 10)
    with pytest.raises(InputError, match=f"HyenaCache: {reason}.* use_cache=False"):
        model(ids(1, 5), cache=cache)
    modeling._say_once.cache_clear()
    widths.clear()
    for _ in range(2):
        model.generate(ids(1, 5), max_new_tokens=3, do_sample=False)
    assert widths == 2 * [5, 6, 7]
    assert len(caplog.messages) == 1
    assert reason in caplog.messages[0]


def test_a_step_that_failed_half_way_is_not_gone_on_from(model: Any) -> None:
    cache = HyenaCache(model, 1, 10)
    model(ids(1, 5), cache=cache)
    handle = model.hyena.backbone.layers[1].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(ids(1, 1), cache=cache)
    handle.remove()
    with pytest.raises(InputError, match="a step before has failed half-way; reset"):
        model(ids(1, 1), cache=cache)
    cache.reset()
    assert model(ids(1, 5), cache=cache).logits.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cache": "new", "labels": ids(2, 6)}, "labels have no use for a cache"),
        ({"cache": "new", "use_cache": False}, "cache: is given, and use_cache is False"),
        ({"cache": "new", "past_key_values": "other"}, "give one of cache and past_key_values"),
        ({"cache": "narrow"}, "made for batch 3, and the prompts have 2 rows"),
        ({"cache": "filled", "input_ids": ids(3, 1)}, "it has 2 rows, and the new tokens 3"),
        ({"cache": "filled", "input_ids": ids(2, 5)}, "5 tokens after the prompt are more than its horizon of 4"),
        ({"cache": "filled", "input_ids": ids(2, 1), "attention_mask": torch.ones(2, 3)}, r"must be \(B, 7\)"),
        ({"cache": "filled", "input_ids": ids(2, 1), "attention_mask": torch.zeros(2, 1)}, "they cannot be pads"),
        ({"cache": "filled", "input_ids": ids(2, 1), "position_ids": torch.tensor([[3]])}, "must go on counting"),
        ({"cache": "new", "attention_mask": torch.zeros(2, 6)}, "the prompts are empty"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(model: Any, arguments: dict[str, Any], words: str) -> None:
    made = {
        "new": HyenaCache(model, 2, 4),
        "other": HyenaCache(model, 2, 4),
        "narrow": HyenaCache(model, 3, 4),
        "filled": HyenaCache(model, 2, 4),
    }
    model(ids(2, 6), cache=made["filled"])
    given = {name: made[value] if isinstance(value, str) else value for name, value in arguments.items()}
    with pytest.raises(InputError, match=words):
        model(**{"input_ids": ids(2, 6)} | given)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"window": 6}, "a power of two"),
    ],
)
def test_impossible_sizes_are_refused(model: Any, numbers: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        HyenaCache(model, **{"batch": 1, "horizon": 1} | numbers)
    with pytest.raises(InputError, match="Linear is not a HyenaDNA model"):
        HyenaCache(nn.Linear(1, 1), 1, 1)


def test_settings_of_generate_about_a_cache(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="penalty_alpha: contrastive search is not supported"):
        model.generate(ids(1, 5), penalty_alpha=0.6, top_k=4)
    with pytest.raises(InputError, match="prefill_chunk_size: a cache takes the prompt at once"):
        model.generate(ids(1, 5), prefill_chunk_size=2)
    modeling._say_once.cache_clear()
    settings = GenerationConfig(cache_implementation="static", max_new_tokens=3, do_sample=False)
    found = model.generate(ids(1, 5), generation_config=settings)
    assert "generate: cache_implementation 'static' is left out" in caplog.messages
    assert torch.equal(found, model.generate(ids(1, 5), max_new_tokens=3, do_sample=False, use_cache=False))


def test_guidance_computes_the_sequence_without_the_prompt_anew(model: Any, widths: list[int]) -> None:
    guided: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "guidance_scale": 1.5}
    found = model.generate(ids(2, 9), **guided)
    # Without the prompt: the last token of it, and a longer sequence at every step.
    assert sorted(widths) == sorted([9, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6])
    assert torch.equal(found, model.generate(ids(2, 9), use_cache=False, **guided))

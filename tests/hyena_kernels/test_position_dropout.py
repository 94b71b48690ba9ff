"""``position_dropout``: known answers of Philox, masks of parts, and what every op guarantees."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from hyena_kernels import position_dropout
from hyena_kernels.backends.torch.position_dropout import random_words
from hyena_kernels.common import sizes
from hyena_kernels.testing import check, position_dropout_inputs, value_and_gradients
from tests.hyena_kernels import promises
from tests.hyena_kernels.helpers import assert_refused, assert_threads_do_not_matter

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("position_dropout")]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SAMPLES = torch.tensor([0, 5, -1, (3 << 32) + 5])
drop = partial(position_dropout, p=0.3, seed=11)


def kept(*shape: int, dtype: torch.dtype = torch.float32, **options: Any) -> Tensor:
    options = {"p": 0.3, "seed": 11, "samples": SAMPLES[: shape[0]], **options}
    return position_dropout(torch.ones(shape, dtype=dtype), **options) != 0


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers_of_philox(counter: str, key: str, words: str) -> None:
    """Those of Random123, file kat_vectors, philox4x32 with 10 rounds."""
    c0, c1, c2, c3 = (torch.tensor(int(word, 16)) for word in counter.split())
    low, high = (int(word, 16) for word in key.split())
    assert [f"{int(word):08x}" for word in random_words((c0, c1, c2, c3), high << 32 | low)] == words.split()


def test_a_word_below_the_threshold_drops_its_channel() -> None:
    """The first known answer through the op: channel k is dropped from word k + 1 on."""
    options = {"seed": 0, "samples": SAMPLES[:1]}
    for channel, word in enumerate((0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)):
        assert kept(1, 1, 4, p=word / 2**32, **options)[0, 0, channel]
        assert not kept(1, 1, 4, p=(word + 1) / 2**32, **options)[0, 0, channel]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 10), (2, 5, 700)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_within_budget(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    # Errors of the few elements that remain are of chance. So every one of them is compared too.
    inputs = position_dropout_inputs(*shape, dtype=dtype)
    check("position_dropout", inputs, p=0.9, seed=-3, offset=(1 << 32) - shape[1])
    again = kept(*shape, dtype=dtype, seed=2**64 - 3, samples=inputs["samples"], offset=(1 << 32) - shape[1])
    assert torch.equal(again, kept(*shape, seed=-3, samples=inputs["samples"], offset=(1 << 32) - shape[1]))


def test_parts_have_the_masks_of_the_whole() -> None:
    x = torch.randn(4, 30, 21)
    whole = drop(x, samples=SAMPLES, offset=100)
    for rows, columns, channels in (
        (slice(1, 3), slice(None), slice(None)),
        (slice(3, 4), slice(7, 20), slice(None)),
        (slice(None), slice(29, 30), slice(6)),
    ):
        part = drop(x[rows, columns, channels], samples=SAMPLES[rows], offset=100 + columns.indices(30)[0])
        assert torch.equal(part, whole[rows, columns, channels])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(drop(x[order], samples=SAMPLES[order], offset=100), whole[order])


def test_every_part_of_the_key_and_the_counter_counts() -> None:
    shape = (1, 40, 100)
    masks = [
        kept(*shape, **options)
        for options in (
            {},
            {"seed": 12},
            {"seed": 11 + (1 << 32)},
            {"samples": SAMPLES[1:2]},
            {"samples": SAMPLES[3:]},
            {"offset": 40},
        )
    ]
    for i, mask in enumerate(masks):
        # Five standard deviations of 4,000 elements, alone and beside each other mask.
        assert abs(mask.double().mean() - 0.7) < 5 * math.sqrt(0.21 / 4000)
        for other in masks[:i]:
            assert abs((mask & other).double().mean() - 0.49) < 5 * math.sqrt(0.49 * 0.51 / 4000)
        rows, columns = mask[0].double().mean(dim=1), mask[0].double().mean(dim=0)
        assert rows.unique().numel() > 5 < columns.unique().numel()


def test_limits_of_p() -> None:
    x = torch.tensor([[[1.0, math.inf, math.nan, -2.0, 3.0]]])
    options = {"samples": SAMPLES[:1], "seed": 1}
    y = position_dropout(x, 0, **options)
    assert torch.equal(y.nan_to_num(), x.nan_to_num())
    assert y.data_ptr() != x.data_ptr()
    found = value_and_gradients(partial(position_dropout, p=1, seed=1), {"x": x, "samples": SAMPLES[:1]}, x)
    assert not found["y"].any()
    assert not found["dx"].any()
    # 2^-33 rounds to no word, and 1 - 2^-33 to all.
    assert kept(1, 50, 50, p=2**-34, **options).all()
    assert not kept(1, 50, 50, p=1 - 2**-34, **options).any()


def test_what_is_not_finite_stays_in_its_element() -> None:
    x = torch.full((1, 3, 8), math.nan)
    mask = kept(1, 3, 8)
    assert torch.equal(drop(x, samples=SAMPLES[:1]).isnan(), mask)
    assert 0 < mask.sum() < mask.numel()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_empty(shape: tuple[int, int, int]) -> None:
    found = value_and_gradients(drop, {"x": torch.ones(shape), "samples": SAMPLES[: shape[0]]}, torch.ones(()))
    assert found["y"].shape == found["dx"].shape == shape


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = position_dropout_inputs(3, 20, 9)
    expected = value_and_gradients(drop, inputs, torch.ones(()))
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 2000)
    for name, value in value_and_gradients(drop, inputs, torch.ones(())).items():
        assert torch.equal(value, expected[name])
        assert not value.isnan().any()


def test_samples_of_another_stride_and_signals_of_any() -> None:
    x, samples = torch.randn(4, 6, 10), SAMPLES.repeat_interleave(2)[::2]
    expected = drop(x, samples=SAMPLES)
    for view in (x.permute(2, 0, 1).contiguous().permute(1, 2, 0), torch.cat([x, x], dim=2)[..., :10]):
        assert torch.equal(drop(view, samples=samples), expected)
        assert drop(view, samples=samples).is_contiguous()
    assert torch.equal(drop(x[:1].expand(4, 6, 10), samples=SAMPLES)[1:2], drop(x[:1], samples=SAMPLES[1:2]))


def test_threads_do_not_matter() -> None:
    inputs = position_dropout_inputs(4, 300, 130)
    assert_threads_do_not_matter(drop, inputs, torch.randn(4, 300, 130))


def test_no_generator_is_used_and_nothing_but_samples_is_saved() -> None:
    before, saved = torch.get_rng_state(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        drop(torch.randn(4, 3, 5, generator=torch.Generator()).requires_grad_(), samples=SAMPLES)
    assert [tensor.data_ptr() for tensor in saved] == [SAMPLES.data_ptr()]
    assert torch.equal(torch.get_rng_state(), before)


def test_second_derivatives_are_right_and_forward_mode_is_refused() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    function = partial(drop, samples=SAMPLES[:2])
    assert torch.autograd.gradgradcheck(function, x)
    way_out = re.escape("hyena_kernels.testing.reference_position_dropout")
    with pytest.raises(NotImplementedError, match=f"forward mode.*{way_out}"):
        torch.func.jvp(function, (x.detach(),), (torch.ones_like(x),))


def test_autocast_has_no_effect() -> None:
    x = torch.randn(4, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = drop(x, samples=SAMPLES)
    assert torch.equal(y, drop(x, samples=SAMPLES))


GIVEN: dict[str, Any] = {"x": torch.zeros(4, 2, 3), "p": 0.1, "seed": 1, "samples": SAMPLES}
OP = "position_dropout: "
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": ({"x": torch.zeros(4, 3)}, ValueError, OP + "x has shape (4, 3), expected (B, L, D)"),
    "dtype": ({"x": torch.zeros(4, 2, 3).int()}, TypeError, OP + "x (4, 2, 3) has dtype torch.int32"),
    "samples dtype": (
        {"samples": SAMPLES.int()},
        TypeError,
        "samples (4,) has dtype torch.int32, expected torch.int64",
    ),
    "no samples": ({"samples": [1]}, TypeError, OP + "samples must be a tensor of integers (B,), got list"),
    "samples": ({"samples": SAMPLES[:3]}, ValueError, "samples has shape (3,), expected (B,) = (4,): one for each row"),
    "device": ({"samples": SAMPLES.to("meta")}, ValueError, "got x (4, 2, 3) on cpu, samples (4,) on meta"),
    "negative p": ({"p": -0.1}, ValueError, OP + "p is -0.1, expected a probability from 0 to 1"),
    "large p": ({"p": 1.5}, ValueError, OP + "p is 1.5, expected a probability"),
    "NaN": ({"p": math.nan}, ValueError, OP + "p is nan, expected a probability"),
    "seed": ({"seed": 1 << 64}, ValueError, OP + "seed is 18446744073709551616, expected 64 bits"),
    "negative seed": ({"seed": -(1 << 63) - 1}, ValueError, OP + "seed is -9223372036854775809, expected 64 bits"),
    "fraction": ({"seed": 1.5}, TypeError, OP + "seed must be a whole number, got float"),
    "offset": ({"offset": -1}, ValueError, "begins at position -1, expected positions from 0 to 2^32 - 1"),
    "positions": ({"offset": (1 << 32) - 1}, ValueError, OP + "x (4, 2, 3) begins at position 4294967295, expected"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(position_dropout, error, message, **GIVEN | change)


def small(length: int, **options: Any) -> dict[str, Tensor]:
    return position_dropout_inputs(2, length, 6, **options)


@pytest.mark.parametrize(
    "promise",
    [
        promises.gradients_are_right,
        promises.two_runs_give_the_same_bits_and_leave_the_inputs_alone,
        promises.strides_do_not_matter,
        promises.torch_func_gives_the_same,
        promises.meta_tensors_give_shapes,
    ],
    ids=lambda promise: promise.__name__,
)
def test_what_every_op_guarantees(promise: Any) -> None:
    promise("position_dropout", small, {})


@pytest.mark.slow
def test_one_compilation_serves_every_length_offset_and_seed() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(partial(position_dropout, p=0.3), backend=counter, fullgraph=True, dynamic=True)
    for length, seed, offset in ((33, 11, 5), (64, 2**40, 9), (47, -7, 1 << 31)):
        options = {"seed": seed, "offset": offset}
        inputs = small(length)
        found = value_and_gradients(compiled, inputs, torch.ones(()), **options)
        for name, value in value_and_gradients(position_dropout, inputs, torch.ones(()), p=0.3, **options).items():
            assert torch.equal(found[name], value)
    assert counter.frame_count <= 2


@pytest.mark.slow
def test_passes_opcheck() -> None:
    op = torch.ops.hyena_kernels.position_dropout.default
    torch.library.opcheck(op, (torch.randn(2, 3, 5, requires_grad=True), SAMPLES[:2], 0.3, 11, 7, "auto"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backends_give_the_same_bits(dtype: torch.dtype) -> None:
    """Not the mask alone: what is kept is a product with one number, rounded once."""
    x = torch.randn(4, 5, 530).to(dtype)
    assert torch.equal(drop(x, samples=SAMPLES), drop(x, samples=SAMPLES, backend="torch"))

"""The ops, modules and models that ``bits.py`` computes.

``hyena_kernels`` and ``hyenadna`` are imported inside the functions, because ``bits.py`` first chooses their tree.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

LENGTHS = (1, 2, 7, 128, 257, 1000, 4096)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
Inputs = dict[str, Tensor | None]
MakeInputs = Callable[[str], Inputs]
Context = Callable[[], AbstractContextManager[Any]]


class Case(NamedTuple):
    name: str
    run: Callable[[], dict[str, Any]]


class Draw:
    """Random tensors that depend on the name alone, so that every case can run by itself."""

    def __init__(self, name: str) -> None:
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale).to(dtype)


def filter_dtype(dtype: torch.dtype, same: bool) -> torch.dtype:
    """The dtype of filters beside a signal of a dtype: at least float32, or the same."""
    return dtype if same else torch.promote_types(dtype, torch.float32)


# ---- ops


def fftconv_inputs(length: int, dtype: torch.dtype, taps: int, given: str, same: bool, name: str) -> Inputs:
    draw, wide, shape = Draw(name), filter_dtype(dtype, same), (2, 3, length)
    return {
        "u": draw(*shape, dtype=dtype),
        "k": draw(3, taps, dtype=wide, scale=taps**-0.5),
        "D": draw(3, dtype=wide) if "D" in given else None,
        "pre_gate": draw(*shape, dtype=dtype) if "pre" in given else None,
        "post_gate": draw(*shape, dtype=dtype) if "post" in given else None,
    }


def short_conv_inputs(length: int, dtype: torch.dtype, taps: int, bias: bool, same: bool, name: str) -> Inputs:
    draw, wide = Draw(name), filter_dtype(dtype, same)
    return {
        "x": draw(2, 5, length, dtype=dtype),
        "weight": draw(5, taps, dtype=wide, scale=taps**-0.5),
        "bias": draw(5, dtype=wide) if bias else None,
    }


def mixer_inputs(
    length: int, dtype: torch.dtype, order: int, taps: int, short_taps: int, bare: bool, name: str
) -> Inputs:
    draw, wide, width = Draw(name), filter_dtype(dtype, False), (order + 1) * 3
    return {
        "x": draw(2, length, width, dtype=dtype),
        "short_weight": draw(width, short_taps, dtype=wide, scale=short_taps**-0.5),
        "short_bias": None if bare else draw(width, dtype=wide),
        "k": draw(order - 1, 3, taps, dtype=wide, scale=taps**-0.5),
        "D": None if bare else draw(order - 1, 3, dtype=wide),
    }


def filter_inputs(length: int, dtype: torch.dtype, window: bool, layers: int, name: str) -> Inputs:
    draw, width = partial(Draw(name), dtype=dtype), 16
    scaled = partial(draw, scale=width**-0.5)
    return {
        "z": draw(length, 5),
        "freq": 10 + draw(width),
        "w_in": scaled(width, 5),
        "b_in": scaled(width),
        "w_hidden": scaled(layers, width, width),
        "b_hidden": scaled(layers, width),
        "w_out": scaled(6, width),
        "t": torch.linspace(0, 1, length, dtype=dtype) if window else None,
        "deltas": torch.linspace(-3, -15, 6, dtype=dtype) if window else None,
    }


def many_rows(op: str, name: str) -> Inputs:
    """More rows than are transformed at a time."""
    draw, channels, length = Draw(name), 50, 4096
    if op == "fftconv":
        u, gate = draw(3, channels, length), draw(3, channels, length)
        return {"u": u, "k": draw(channels, length), "D": draw(channels), "pre_gate": gate}
    short = {"weight": draw(3 * channels, 3), "bias": draw(3 * channels)}
    if op == "short_conv":
        return {"x": draw(4, 3 * channels, 4 * length), **short}
    filters = {"k": draw(1, channels, length), "D": draw(1, channels)}
    return {"x": draw(3, length, 3 * channels), **{f"short_{key}": tensor for key, tensor in short.items()}, **filters}


def strided(make: MakeInputs, name: str) -> Inputs:
    """The same inputs with the first one cut out of a larger tensor, with other strides."""
    inputs = make(name)
    first = next(iter(inputs))
    tensor = inputs[first]
    assert tensor is not None
    larger = torch.stack((tensor, tensor), dim=-1).transpose(0, 1).contiguous()
    return {**inputs, first: larger.transpose(0, 1)[..., 1]}


class Call(NamedTuple):
    """One way of calling an op; ``make`` gives its inputs for a seed."""

    op: str
    variant: str
    make: MakeInputs
    options: dict[str, Any]

    def case(
        self, place: str, backend: str | None, *, wanted: str | None = None, context: Context = nullcontext
    ) -> Case:
        """The result ``y`` and the gradient of every input, or of the ``wanted`` one alone."""
        name = f"{self.op}/{place}/{self.variant}"

        def run() -> dict[str, Any]:
            import hyena_kernels

            inputs = self.make(name)
            given = {key: tensor for key, tensor in inputs.items() if tensor is not None and wanted in (None, key)}
            for tensor in given.values():
                tensor.requires_grad_()
            with context():
                y = getattr(hyena_kernels, self.op)(**inputs, backend=backend, **self.options)
            dy = Draw(name + " dy")(*y.shape, dtype=y.dtype)
            grads = torch.autograd.grad(y, list(given.values()), dy)
            return {"y": y, **{f"d{key}": grad for key, grad in zip(given, grads, strict=True)}}

        return Case(name, run)


def calls(length: int, dtype: torch.dtype) -> Iterator[Call]:
    """Every way of calling an op that is tried at every length and dtype."""
    short = -(-length // 3)
    for name, taps, given, causal in [
        ("plain", length, "", True),
        ("skip", length, "D", True),
        ("pre gate", length, "pre", True),
        ("post gate", length, "post", True),
        ("all", length, "D pre post", True),
        ("short", short, "D pre post", True),
        ("two-sided", length, "", False),
        ("two-sided all", length, "D pre post", False),
        ("two-sided short", short, "D pre post", False),
    ]:
        yield Call("fftconv", name, partial(fftconv_inputs, length, dtype, taps, given, False), {"causal": causal})
    for taps in (1, 3, 4, 8):
        yield Call("short_conv", f"{taps} taps", partial(short_conv_inputs, length, dtype, taps, True, False), {})
    yield Call("short_conv", "no bias", partial(short_conv_inputs, length, dtype, 3, False, False), {})
    for order in (2, 3):
        make = partial(mixer_inputs, length, dtype, order)
        yield Call("hyena_mixer", f"order {order}", partial(make, length, 3, False), {})
        yield Call("hyena_mixer", f"order {order} short", partial(make, short, 4, False), {})
        yield Call("hyena_mixer", f"order {order} bare", partial(make, length, 3, True), {})
    if dtype.itemsize < 4:
        same = "filter of the same dtype"
        yield Call("fftconv", same, partial(fftconv_inputs, length, dtype, length, "D pre post", True), {})
        yield Call("short_conv", same, partial(short_conv_inputs, length, dtype, 3, True, True), {})
    else:
        make_filter = partial(filter_inputs, length, dtype)
        yield Call("implicit_filter", "window", partial(make_filter, True, 2), {"shift": 0.05})
        yield Call("implicit_filter", "no window", partial(make_filter, False, 2), {})
        yield Call("implicit_filter", "no hidden layer", partial(make_filter, True, 0), {})


def ops(backend: str, place: str, lengths: Sequence[int] = LENGTHS) -> Iterator[Case]:
    """Every op on one backend, called in every way."""
    for dtype_name, dtype in DTYPES.items():
        for length in lengths:
            for call in calls(length, dtype):
                yield call.case(f"{place}/{dtype_name}/L{length}", backend)


def special_ops(backend: str) -> Iterator[Case]:
    """What takes another path: single gradients, strides, autocast, a forced backend, many rows, a long row."""
    import hyena_kernels

    chosen = {"all", "two-sided short", "3 taps", "order 3", "window"}
    for call in calls(257, torch.float32):
        if call.variant in chosen:
            yield call._replace(make=partial(strided, call.make)).case(f"{backend}/strided", backend)
            yield call.case(f"{backend}/autocast", backend, context=partial(torch.autocast, "cpu", torch.bfloat16))
            yield call.case(f"{backend}/forced", None, context=partial(hyena_kernels.use_backend, backend))
            for key in call.make(""):
                yield call.case(f"{backend}/gradient of {key}", backend, wanted=key)
    for op in ("fftconv", "short_conv", "hyena_mixer"):
        yield Call(op, "many rows", partial(many_rows, op), {}).case(backend, backend)
    for length in (30030, 65537):
        for call in calls(length, torch.float32):
            if call.variant in chosen:
                yield call.case(f"{backend}/L{length}", backend)


def interpreted_ops() -> Iterator[Case]:
    """Small cases of the Triton kernels; the interpreter is slow."""
    long_convolution = {"fftconv": ("all",)}
    convolutions = {"fftconv": ("all", "two-sided short"), "short_conv": ("3 taps",)}
    everything = {
        **convolutions,
        "hyena_mixer": ("order 2", "order 3"),
        "implicit_filter": ("window", "no window"),
    }
    for dtype_name, length, chosen in (
        ("float32", 7, everything),
        ("float16", 40, everything),
        ("bfloat16", 40, convolutions),
        ("float32", 130, long_convolution),
    ):
        for call in calls(length, DTYPES[dtype_name]):
            if call.variant in chosen.get(call.op, ()):
                yield call.case(f"triton/{dtype_name}/L{length}", "triton")


# ---- modules and models


def seed(name: str) -> None:
    torch.manual_seed(zlib.crc32(name.encode()))


def gradients(module: torch.nn.Module) -> dict[str, Any]:
    return {f"d{key}": p.grad for key, p in module.named_parameters() if p.grad is not None}


def modules(backend: str) -> Iterator[Case]:
    """``HyenaFilter`` and ``HyenaOperator`` in training and in inference."""
    import hyena_kernels

    def hyena_filter(name: str, **options: Any) -> dict[str, Any]:
        seed(name)
        with hyena_kernels.use_backend(backend):
            module = hyena_kernels.HyenaFilter(6, emb_dim=5, order=16, seq_len=300, **options)
            found = {f"initial {key}": tensor.clone() for key, tensor in module.state_dict().items()}
            x, dy = (Draw(name)(2, 6, 257) for _ in range(2))
            y = module(x, 257)
            y.backward(dy)
            module.eval()
            with torch.no_grad():
                inferred = module(x, 257)
            return {**found, "y": y, **gradients(module), "eval": inferred, "filter": module.filter(100)}

    def operator(name: str, dtype: torch.dtype = torch.float32, hook: bool = False, **options: Any) -> dict[str, Any]:
        seed(name)
        module = hyena_kernels.HyenaOperator(6, 300, filter_order=16, backend=backend, **options).to(dtype)
        found = {f"initial {key}": tensor.clone() for key, tensor in module.state_dict().items()}
        if hook:
            module.short_filter.register_forward_hook(lambda *_: None)
        draw = Draw(name)
        for length in (1, 257, 300):
            u = draw(2, length, 6, dtype=dtype).requires_grad_()
            y = module.train()(u)
            y.backward(draw(*y.shape, dtype=dtype))
            found |= {f"L{length} y": y, f"L{length} du": u.grad}
            found |= {f"L{length} {key}": grad for key, grad in gradients(module).items()}
            module.zero_grad()
            found[f"L{length} eval with gradients"] = module.eval()(u)
        module.eval()
        with torch.no_grad():
            u = draw(2, 257, 6, dtype=dtype)
            # The second call takes the filters that the first has kept; the change has them computed again.
            found |= {"eval": module(u), "eval again": module(u)}
            next(module.filter_fn.implicit_filter.parameters()).mul_(0.5)
            found["eval after a change"] = module(u)
        return found

    def case(kind: str, variant: str, function: Callable[..., dict[str, Any]], **options: Any) -> Case:
        name = f"{kind}/{backend}/{variant}"
        return Case(name, partial(function, name, **options))

    yield case("HyenaFilter", "plain", hyena_filter)
    yield case("HyenaFilter", "no window", hyena_filter, modulate=False)
    yield case("HyenaFilter", "no hidden layer", hyena_filter, num_inner_mlps=0, shift=0.0)
    yield case("HyenaOperator", "order 2", operator)
    yield case("HyenaOperator", "order 3", operator, order=3)
    yield case("HyenaOperator", "order 4 gelu", operator, order=4, activation="gelu", short_filter_order=4)
    yield case("HyenaOperator", "dropout", operator, dropout=0.2)
    yield case("HyenaOperator", "hook", operator, hook=True)
    yield case("HyenaOperator", "float64", operator, dtype=torch.float64)
    yield case("HyenaOperator", "bfloat16", operator, dtype=torch.bfloat16)


def models(backend: str) -> Iterator[Case]:
    """Tiny models: new weights, forward, loss and gradients."""
    import hyena_kernels
    import hyenadna

    def model(name: str, kind: str, dtype: torch.dtype, checkpointing: bool, options: dict[str, Any]) -> dict[str, Any]:
        config = hyenadna.HyenaDNAConfig(d_model=16, n_layer=2, max_seq_len=130, filter_order=16, **options)
        seed(name)
        made = getattr(hyenadna, kind)(config).to(dtype)
        found = {f"initial {key}": tensor.clone() for key, tensor in made.state_dict().items()}
        if checkpointing:
            made.gradient_checkpointing_enable()
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(7, 11, (3, 100), generator=generator)
        if kind == "HyenaDNAForSequenceClassification":
            labels = torch.tensor([0, 2, 1])
        else:
            labels = ids if kind == "HyenaDNAForCausalLM" else torch.randint(0, 3, ids.shape, generator=generator)
        with hyena_kernels.use_backend(backend):
            output = made.train()(input_ids=ids, labels=labels)
            output.loss.backward()
            found |= {"loss": output.loss, "logits": output.logits, **gradients(made)}
            with torch.no_grad():
                output = made.eval()(input_ids=ids, labels=labels, output_hidden_states=True)
            found |= {"eval loss": output.loss, "eval logits": output.logits}
            found |= {f"eval hidden {i}": hidden for i, hidden in enumerate(output.hidden_states)}
        return found

    cases: list[tuple[str, str, torch.dtype, bool, dict[str, Any]]] = [
        ("HyenaDNAForCausalLM", "float32", torch.float32, False, {}),
        ("HyenaDNAForCausalLM", "float64", torch.float64, False, {}),
        ("HyenaDNAForCausalLM", "bfloat16", torch.bfloat16, False, {}),
        ("HyenaDNAForCausalLM", "order 3", torch.float32, False, {"hyena_order": 3, "hyena_dropout": 0.1}),
        ("HyenaDNAForCausalLM", "checkpointing", torch.float32, True, {}),
        ("HyenaDNAForSequenceClassification", "mean", torch.float32, False, {"num_labels": 3}),
        ("HyenaDNAForSequenceClassification", "last", torch.float32, False, {"num_labels": 3, "pooling": "last"}),
        ("HyenaDNAForTokenClassification", "float32", torch.float32, False, {"num_labels": 3}),
    ]
    for kind, variant, dtype, checkpointing, options in cases:
        name = f"{kind}/{backend}/{variant}"
        yield Case(name, partial(model, name, kind, dtype, checkpointing, options))


def tokenizer() -> dict[str, Any]:
    import hyenadna

    made = hyenadna.DNATokenizer(model_max_length=130)
    return {"ids": dict(made(["ACGTNACGT", "acgt", "RYACG"]))}

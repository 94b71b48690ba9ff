"""A captured training step. Without a GPU, what would be captured runs on the CPU in the place of the graph."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import hyenadna
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, make_graphed_step
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.model.layers import DroppedByPosition
from hyenadna.training import graphs
from hyenadna.training.graphs import GraphError, training_step
from hyenadna.training.optim import parameter_groups

FIELDS = {"d_model": 8, "n_layer": 2, "filter_order": 8, "max_seq_len": 32}


def make_model(**fields: Any) -> HyenaDNAForCausalLM:
    torch.manual_seed(1)
    return HyenaDNAForCausalLM(HyenaDNAConfig(**FIELDS | fields)).train()


def make_optimizer(model: nn.Module, lr: float = 1e-2) -> torch.optim.AdamW:
    """AdamW as a graph takes it: fused, which is capturable on a CPU too."""
    return torch.optim.AdamW(parameter_groups(model, 0.1), lr=torch.tensor(lr), fused=True, capturable=True)


def make_batches(number: int, rows: int = 3, length: int = 17) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    batches = [torch.randint(7, 11, (rows, length), dtype=torch.uint8, generator=generator) for _ in range(number)]
    batches[0][0, 3:9] = N_ID
    batches[0][1, 5:] = PAD_ID
    return batches


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of the weights and of what AdamW keeps."""
    kept = [tensor for state in optimizer.state.values() for tensor in state.values()]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers(), *kept)]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_step_against_plain_training(accumulate: int) -> None:
    model = make_model(embed_dropout=0.0).double()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-2)
    reference = torch.optim.AdamW(parameter_groups(plain, 0.1), lr=1e-2)
    for batch in make_batches(3):
        loss, norm = training_step(model, optimizer, batch, clip=0.01, accumulate=accumulate)
        reference.zero_grad()
        log_p = plain(batch[:, :-1]).logits.log_softmax(-1)
        targets = batch[:, 1:].long()
        wanted = -log_p.gather(2, targets[..., None])[..., 0][(targets != N_ID) & (targets != PAD_ID)].mean()
        wanted.backward()
        gradients = [parameter.grad for parameter in plain.parameters()]
        total = torch.stack([gradient.square().sum() for gradient in gradients if gradient is not None]).sum().sqrt()
        for gradient in gradients:
            gradient.mul_((0.01 / (total + 1e-6)).clamp(max=1))
        reference.step()
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(norm, total, rtol=1e-12, atol=0)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def on_meta(**fields: Any) -> HyenaDNAForCausalLM:
    with torch.device("meta"):
        return HyenaDNAForCausalLM(HyenaDNAConfig(**FIELDS | fields)).train()


@pytest.mark.parametrize(
    ("checkpointed", "rows", "length", "accumulate"), [(False, 1, 2, 1), (False, 4, 16, 2), (True, 3, 33, 2)]
)
def test_no_value_is_read(
    checkpointed: bool, rows: int, length: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tensor on meta has no values, so that whoever reads one fails. Its device is no CPU, as a GPU is none.
    monkeypatch.setattr(
        sys.modules[torch.optim.Adam.__module__], "_get_capturable_supported_devices", lambda **options: ["meta"]
    )
    model = on_meta(n_layer=1)
    if checkpointed:
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), foreach=True, capturable=True)
    for group in optimizer.param_groups:
        group["lr"] = torch.empty((), device="meta")
    batch = torch.empty((rows, length), dtype=torch.uint8, device="meta")
    with graphs._checkpoints_without_random_state(model):
        for _ in range(2):
            result = training_step(model, optimizer, batch, clip=1.0, accumulate=accumulate, autocast="off")
    assert result.shape == (2,)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_value_that_is_read_would_be_found() -> None:
    model = on_meta()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * float(output.detach().sum()))
    batch = torch.empty((1, 9), dtype=torch.uint8, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        training_step(model, torch.optim.AdamW(model.parameters()), batch, clip=1.0, autocast="off")


NEEDS_CUDA = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="autograd of a torch without CUDA takes no fake CUDA tensors"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "checkpointed", "accumulate"),
    [
        ("cpu", True, 2),
        pytest.param("cuda", False, 1, marks=NEEDS_CUDA),
        pytest.param("cuda", True, 2, marks=NEEDS_CUDA),
    ],
)
def test_no_value_of_a_fake_tensor_is_read(
    device: str, checkpointed: bool, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules[torch.optim.Adam.__module__], "_get_capturable_supported_devices", lambda **options: [device]
    )
    model = on_meta(n_layer=1)
    if checkpointed:
        model.activation_checkpointing_enable()
    with FakeTensorMode(allow_non_fake_inputs=False):
        shared: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    made = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device=device))
                    module._parameters[name] = shared.setdefault(id(weight), made)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), foreach=True, capturable=True)
        for group in optimizer.param_groups:
            group["lr"] = torch.empty((), device=device)
        batch = torch.empty((4, 17), dtype=torch.uint8, device=device)
        with graphs._checkpoints_without_random_state(model):
            for _ in range(2):
                result = training_step(model, optimizer, batch, clip=1.0, accumulate=accumulate, autocast="bfloat16")
        with pytest.raises(DataDependentOutputException):
            result[0].item()
    assert result.shape == (2,)


@pytest.mark.usefixtures("graphs_on_cpu")
@pytest.mark.parametrize(("accumulate", "checkpointed"), [(1, False), (2, True)])
def test_calls_are_steps(accumulate: int, checkpointed: bool) -> None:
    model = make_model()
    if checkpointed:
        model.activation_checkpointing_enable()
    eager = copy.deepcopy(model)
    optimizer, reference = make_optimizer(model), make_optimizer(eager)
    batches = make_batches(4)
    # One step before, so that AdamW has moments.
    for one, by in ((model, optimizer), (eager, reference)):
        torch.manual_seed(5)
        training_step(one, by, batches[3], clip=1.0, accumulate=accumulate)
    torch.manual_seed(6)
    step = make_graphed_step(model, optimizer, batches[0], accumulate=accumulate)
    found = []
    for batch, lr in zip(batches, (1e-2, 3e-3, 1e-3, 0.0), strict=True):
        for group in optimizer.param_groups:
            group["lr"].fill_(lr)
        found.append(step(batch))
    torch.manual_seed(6)
    for (loss, norm), batch, lr in zip(found, batches, (1e-2, 3e-3, 1e-3, 0.0), strict=True):
        for group in reference.param_groups:
            group["lr"].fill_(lr)
        wanted = training_step(eager, reference, batch, clip=1.0, accumulate=accumulate)
        assert torch.equal(torch.stack([loss, norm]), wanted)
        assert loss.shape == norm.shape == ()
    assert_same(everything(model, optimizer), everything(eager, reference))


@pytest.mark.usefixtures("graphs_on_cpu")
@pytest.mark.parametrize("steps_before", [0, 2])
def test_making_a_step_changes_nothing(steps_before: int) -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    batches = make_batches(3)
    for batch in batches[:steps_before]:
        training_step(model, optimizer, batch, clip=1.0)
    before, random = everything(model, optimizer), torch.get_rng_state()
    make_graphed_step(model, optimizer, batches[2])
    after = everything(model, optimizer)
    assert torch.equal(torch.get_rng_state(), random)
    if steps_before == 0:
        # AdamW had nothing yet, and begins with zeros itself.
        made = after[len(before) :]
        assert len(made) == 3 * sum(1 for _ in model.parameters())
        assert not any(tensor.any() for tensor in made)
        after = after[: len(before)]
    assert_same(before, after)


def test_a_failed_capture_changes_nothing(graphs_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(step: Callable[[], Tensor], device: torch.device) -> Any:
        step()
        raise GraphError("no")

    monkeypatch.setattr(graphs, "_capture", capture)
    model = make_model()
    model.activation_checkpointing_enable()
    optimizer, batch = make_optimizer(model), make_batches(1)[0]
    training_step(model, optimizer, batch, clip=1.0)
    before, random = everything(model, optimizer), torch.get_rng_state()
    function = model.hyena.backbone.layers[0]._gradient_checkpointing_func
    with pytest.raises(GraphError, match=r"^no$"):
        make_graphed_step(model, optimizer, batch)
    assert_same(before, everything(model, optimizer))
    assert torch.equal(torch.get_rng_state(), random)
    assert model.hyena.backbone.layers[0]._gradient_checkpointing_func is function


def test_checkpointed_blocks_keep_no_random_state(graphs_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # A capture refuses to read it.
    model = make_model()
    model.activation_checkpointing_enable()
    optimizer, batch = make_optimizer(model), make_batches(1)[0]
    reads: list[str] = []
    read = torch.get_rng_state

    def reading() -> Tensor:
        reads.append("read")
        return read()

    def capture(step: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
        with monkeypatch.context() as patched:
            patched.setattr(torch, "get_rng_state", reading)
            return lambda: None, step()

    monkeypatch.setattr(graphs, "_capture", capture)
    make_graphed_step(model, optimizer, batch)
    assert not reads


def hooked(model: HyenaDNAForCausalLM) -> None:
    model.lm_head.register_forward_hook(lambda *args: None)


def gradient_hooked(model: HyenaDNAForCausalLM) -> None:
    model.lm_head.weight.register_post_accumulate_grad_hook(lambda parameter: None)


def enter_dropout(model: nn.Module, optimizer: Any) -> None:
    model.hyena.backbone.dropped_by_position = DroppedByPosition(1, torch.arange(3), ())


@pytest.mark.usefixtures("graphs_on_cpu")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hooked, "lm_head has hooks, which would run while the step is captured and never again"),
        (gradient_hooked, "lm_head.weight has a hook on its gradient, which would run while the step is captured"),
    ],
)
def test_refuses_a_model(change: Callable[[HyenaDNAForCausalLM], None], message: str) -> None:
    model = make_model()
    change(model)
    with pytest.raises(GraphError, match=message) as caught:
        make_graphed_step(model, make_optimizer(model), make_batches(1)[0])
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("graphs_on_cpu")
def test_refuses_dropout_in_checkpointed_blocks() -> None:
    model = make_model(hyena_dropout=0.1)
    optimizer, batch = make_optimizer(model), make_batches(1)[0]
    make_graphed_step(model, optimizer, batch)
    model.activation_checkpointing_enable()
    with pytest.raises(GraphError, match=r"layers\.0 has dropout and is checkpointed"):
        make_graphed_step(model, optimizer, batch)
    make_graphed_step(model.eval(), optimizer, batch)


@pytest.mark.usefixtures("graphs_on_cpu")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "the optimizer is a SGD: take torch.optim.AdamW"),
        (lambda p: torch.optim.AdamW(p, lr=0.1), "the optimizer is not capturable: take torch.optim.AdamW"),
        (
            lambda p: torch.optim.AdamW(p, lr=0.1, capturable=True),
            "the learning rate is the number 0.1, which the graph would keep for ever",
        ),
        (
            lambda p: torch.optim.AdamW(p, lr=0.1, capturable=True, differentiable=True),
            "the optimizer is differentiable",
        ),
    ],
)
def test_refuses_an_optimizer(make: Callable[[Any], Any], message: str) -> None:
    model = make_model()
    with pytest.raises(GraphError, match=message):
        make_graphed_step(model, make(model.parameters()), make_batches(1)[0])


@pytest.mark.usefixtures("graphs_on_cpu")
def test_refuses_a_trained_weight_without_an_optimizer() -> None:
    model = make_model()
    optimizer = make_optimizer(model.hyena)
    with pytest.raises(GraphError, match=r"^lm_head\.weight is not among the parameters of the optimizer, so that"):
        make_graphed_step(model, optimizer, make_batches(1)[0])
    model.lm_head.requires_grad_(False)
    make_graphed_step(model, optimizer, make_batches(1)[0])


@pytest.mark.usefixtures("graphs_on_cpu")
def test_refuses_hooks_of_the_optimizer() -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    optimizer.register_step_post_hook(lambda *args: None)
    with pytest.raises(GraphError, match="the optimizer has hooks"):
        make_graphed_step(model, optimizer, make_batches(1)[0])


@pytest.mark.usefixtures("graphs_on_cpu")
@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (torch.zeros(9, dtype=torch.long), {}, r"must be token ids \(B, L\+1\) with L of at least 1, got shape \(9,\)"),
        (torch.zeros((2, 1), dtype=torch.long), {}, r"got shape \(2, 1\)"),
        (torch.zeros(2, 9), {}, "must be token ids, which are integers, got float32"),
        (torch.zeros((2, 34), dtype=torch.long), {}, "a sequence of 33 tokens is longer than this model's max_seq_len"),
        (torch.zeros((2, 9), dtype=torch.long), {"clip": 0.0}, "clip 0.0: must be above 0"),
        (torch.zeros((2, 9), dtype=torch.long), {"accumulate": 3}, "accumulate 3: must be from 1 to the 2 rows"),
        (torch.zeros((2, 9), dtype=torch.long), {"autocast": "float16"}, "autocast float16 needs a scaler of the loss"),
        (torch.zeros((2, 9), dtype=torch.long, device="meta"), {}, "the batch is on meta, and the model on cpu"),
    ],
)
def test_refuses_a_batch_or_an_option(batch: Tensor, options: dict[str, Any], message: str) -> None:
    model = make_model()
    with pytest.raises(InputError, match=message):
        make_graphed_step(model, make_optimizer(model), batch, **options)


@pytest.mark.usefixtures("graphs_on_cpu")
def test_refuses_to_be_made_under_autocast() -> None:
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(GraphError, match=r"called inside torch\.autocast"):
        make_graphed_step(model, make_optimizer(model), make_batches(1)[0])


def test_refuses_another_device_than_cuda() -> None:
    model = make_model()
    with pytest.raises(GraphError, match=r"word_embeddings\.weight is on cpu: a CUDA graph needs the whole model on"):
        make_graphed_step(model, make_optimizer(model), make_batches(1)[0])


@pytest.mark.usefixtures("graphs_on_cpu")
def test_refuses_another_batch_than_the_example() -> None:
    model = make_model()
    batch = make_batches(1)[0]
    step = make_graphed_step(model, make_optimizer(model), batch)
    with pytest.raises(GraphError, match=r"a batch \(3, 16\) of uint8 for a step that was captured for \(3, 17\) of"):
        step(batch[:, 1:])
    with pytest.raises(GraphError, match=r"\(3, 17\) of int64 for a step that was captured for \(3, 17\) of uint8"):
        step(batch.long())


def set_number(model: nn.Module, optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = 0.1


def set_decay(model: nn.Module, optimizer: Any) -> None:
    optimizer.param_groups[0]["weight_decay"] = 0.5


def load_state(model: nn.Module, optimizer: Any) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def freeze(model: nn.Module, optimizer: Any) -> None:
    model.lm_head.requires_grad_(False)


def move(model: nn.Module, optimizer: Any) -> None:
    model.lm_head.weight.data = model.lm_head.weight.data.clone()


@pytest.mark.usefixtures("graphs_on_cpu")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_number, "a setting in the groups of the optimizer changed after the step was captured"),
        (set_decay, "a setting in the groups of the optimizer changed"),
        (load_state, r"the state of the optimizer, as by load_state_dict changed"),
        (freeze, "requires_grad of the parameters changed"),
        (move, "the memory of the parameters changed"),
        (enter_dropout, "the block of dropout_by_position changed"),
        (lambda model, optimizer: model.eval(), r"train\(\) or eval\(\) of the model changed"),
    ],
)
def test_refuses_to_go_on_with_what_was_captured(change: Callable[[nn.Module, Any], Any], message: str) -> None:
    model = make_model()
    optimizer, batch = make_optimizer(model), make_batches(1)[0]
    step = make_graphed_step(model, optimizer, batch)
    step(batch)
    before = everything(model, optimizer)
    change(model, optimizer)
    with pytest.raises(GraphError, match=message):
        step(batch)
    if change is not load_state:
        assert_same(before, everything(model, optimizer))


class FakeCuda:
    """Stands for what a capture calls in ``torch.cuda``. It notes the calls, and forbids what ``fails`` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.mode = "default"
        stream = SimpleNamespace(wait_stream=lambda other: self.calls.append("wait"))
        for name in ("device", "stream"):
            monkeypatch.setattr(torch.cuda, name, lambda given: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.replay))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", self.set_mode)

    def replay(self) -> None:
        self.calls.append("replay")

    @contextlib.contextmanager
    def graph(self, graph: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.calls.append(f"capture {capture_error_mode}")
        try:
            yield
        finally:
            self.calls.append("end")

    def set_mode(self, mode: str) -> None:
        self.mode = mode


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def test_a_step_is_warmed_up_and_captured(cuda: FakeCuda) -> None:
    modes = []

    def step() -> Tensor:
        modes.append(cuda.mode)
        cuda.calls.append("step")
        return torch.zeros(2)

    launch, _ = graphs._capture(step, torch.device("cuda"))
    launch()
    assert cuda.calls == ["wait", "step", "step", "wait", "capture thread_local", "step", "end", "replay"]
    assert modes == ["default", "error", "default"]


def test_an_operation_that_waits_is_named(cuda: FakeCuda) -> None:
    def step() -> Tensor:
        x = torch.ones(3).cumsum(0)
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        return x

    with pytest.raises(GraphError) as caught:
        graphs._capture(step, torch.device("cuda"))
    assert str(caught.value) == (
        "aten.cumsum.default cannot be captured (RuntimeError: called a synchronizing CUDA operation): take out what "
        "reads values or makes tensors from Python's, or train op by op"
    )
    assert cuda.mode == "default"


def test_the_place_is_named_where_the_operation_is_not_found(cuda: FakeCuda) -> None:
    def culprit() -> None:
        if cuda.mode == "error" and not torch._C._len_torch_dispatch_stack():
            raise RuntimeError("called a synchronizing CUDA operation")

    def step() -> Tensor:
        culprit()
        return torch.zeros(2)

    with pytest.raises(GraphError, match=r"^culprit in test_graphs\.py, line \d+ cannot be captured \(RuntimeError: "):
        graphs._capture(step, torch.device("cuda"))


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
def test_a_failure_of_the_capture_is_placed(cuda: FakeCuda, kind: type[Exception]) -> None:
    def culprit() -> None:
        if cuda.calls[-1].startswith("capture"):
            raise kind("operation not permitted when stream is capturing\nmore")

    def step() -> Tensor:
        culprit()
        return torch.zeros(2)

    with pytest.raises(GraphError) as caught:
        graphs._capture(step, torch.device("cuda"))
    assert str(caught.value).startswith("the step cannot be captured: culprit in test_graphs.py, line ")
    assert f": {kind.__name__}: operation not permitted when stream is capturing; take out" in str(caught.value)


@pytest.mark.parametrize("when", ["step", "capture"])
def test_too_little_memory_is_told(cuda: FakeCuda, when: str) -> None:
    def step() -> Tensor:
        if when == "step" or cuda.calls[-1].startswith("capture"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return torch.zeros(2)

    with pytest.raises(GraphError, match="the memory of cuda does not hold a step and its graph: take a smaller"):
        graphs._capture(step, torch.device("cuda"))


def test_it_is_a_name_of_the_package() -> None:
    assert "make_graphed_step" in hyenadna.__all__
    assert hyenadna.make_graphed_step is graphs.make_graphed_step


@pytest.mark.gpu
@pytest.mark.parametrize(("accumulate", "checkpointed"), [(1, False), (2, True)])
def test_a_graph_is_the_step(accumulate: int, checkpointed: bool) -> None:
    model = make_model(embed_dropout=0.1).to("cuda")  # type: ignore[arg-type]
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    eager = copy.deepcopy(model)
    made = [
        torch.optim.AdamW(parameter_groups(one, 0.1), lr=torch.tensor(1e-2, device="cuda"), fused=True, capturable=True)
        for one in (model, eager)
    ]
    batches = make_batches(4)
    torch.manual_seed(6)
    before = torch.cuda.get_rng_state()
    step = make_graphed_step(model, made[0], batches[0].cuda(), accumulate=accumulate)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    found = []
    for batch, lr in zip(batches, (1e-2, 3e-3, 1e-3, 0.0), strict=True):
        made[0].param_groups[0]["lr"].fill_(lr)
        found.append(step(batch))
    torch.manual_seed(6)
    for (loss, norm), batch, lr in zip(found, batches, (1e-2, 3e-3, 1e-3, 0.0), strict=True):
        made[1].param_groups[0]["lr"].fill_(lr)
        wanted = training_step(eager, made[1], batch.cuda(), clip=1.0, accumulate=accumulate)
        assert torch.equal(torch.stack([loss, norm]), wanted)
    assert_same(everything(model, made[0]), everything(eager, made[1]))

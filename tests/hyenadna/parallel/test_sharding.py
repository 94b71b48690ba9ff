"""Models under FSDP2 against the same model in one process, in float64 where values are compared."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, InputError
from hyenadna.model import sliced
from hyenadna.model.sliced import Slices
from hyenadna.parallel.sharding import initialize, shard
from tests.ranks import run_ranks

RANKS = 2
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def config(**fields: Any) -> HyenaDNAConfig:
    options: dict[str, Any] = {"d_model": 6, "n_layer": 2, "max_seq_len": 40, "filter_order": 8, "embed_dropout": 0.0}
    return HyenaDNAConfig(**(options | fields))


def model(dtype: torch.dtype = torch.float64, seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    made: Any = HyenaDNAForCausalLM(config(**fields))
    return made.to(dtype).train()


def ids(rows: int = 4) -> Tensor:
    return torch.randint(7, 11, (rows, 33), generator=torch.Generator().manual_seed(1))


def losses(made: Any, rank: int, ranks: int) -> Tensor:
    """The sum of the losses of a rank's rows, divided by the targets of all."""
    given = ids()
    own = given[rank::ranks]
    logits = made(own[:, :-1]).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), own[:, 1:].flatten(), reduction="sum") / given.numel()


def gradients(made: Any) -> dict[str, Tensor]:
    found = {}
    for name, parameter in made.named_parameters():
        gradient = parameter.grad
        found[name.removeprefix("module.").replace("_orig_mod.", "")] = (
            gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        )
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = (found[name] - tensor).abs().max()
        assert error <= tolerance * tensor.abs().max(), f"{name}: {error / tensor.abs().max():.1e}"


def expected_gradients(plain: Any) -> dict[str, Tensor]:
    plain.zero_grad()
    losses(plain, 0, 1).backward()
    return gradients(plain)


def check_gradients(rank: int, mesh: DeviceMesh) -> None:
    """Gradients of sums and means, with and without checkpointing, whole and in slices, freed and kept."""
    calls = []
    real = sliced._backward

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return real(*args)

    sliced._backward = counted  # type: ignore[assignment]
    sliced.slices_of = lambda *_: Slices(5, 7)
    plain = model(tie_word_embeddings=True)
    expected = expected_gradients(plain)
    for slices, reshard in ((None, True), (False, False), (False, True), ("auto", False), ("auto", True)):
        made = copy.deepcopy(plain)
        if slices is not None:
            made.activation_checkpointing_enable({"slices": slices, "use_reentrant": False})
        shard(made, mesh, reshard_after_forward=reshard, gradients="sum")
        calls.clear()
        losses(made, rank, RANKS).backward()
        assert_same(gradients(made), expected)
        assert len(calls) == (2 if slices == "auto" else 0)
    # By default the mean over the ranks, as of DDP.
    plain = model()
    expected = expected_gradients(plain)
    made = copy.deepcopy(plain)
    shard(made, mesh)
    (losses(made, rank, RANKS) * RANKS).backward()
    assert_same(gradients(made), expected)


def check_inference(rank: int, mesh: DeviceMesh) -> None:
    """Logits without gradients, and generated tokens."""
    plain = model().eval()
    made = copy.deepcopy(plain)
    shard(made, mesh)
    with torch.no_grad():
        torch.testing.assert_close(made(ids()).logits, plain(ids()).logits, rtol=0, atol=1e-12)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(made.generate(ids(1)[:, :5], **options), plain.generate(ids(1)[:, :5], **options))


def check_policies(rank: int, mesh: DeviceMesh) -> None:
    """A policy of 16 bits: filters in float32, everything else as in a model of 16 bits."""
    plain = model(torch.float32, num_inner_mlps=3, tie_word_embeddings=True)
    narrow = copy.deepcopy(plain).bfloat16()
    made = copy.deepcopy(plain)
    shard(made, mesh, mp_policy=BF16, gradients="sum")
    taps: list[Tensor] = []
    for module in made.modules():
        if hasattr(module, "filter_settings"):
            module.register_forward_hook(lambda module, args, found: taps.append(found[0].detach().clone()))
    logits = made(ids()).logits
    for own, block in zip(taps, plain.hyena.backbone.layers, strict=True):
        assert torch.equal(own, block.mixer.filter_fn.kernel(33))
    assert logits.dtype == torch.bfloat16
    assert torch.equal(logits, narrow(ids()).logits)
    # The dtype of the result is not that of the residual.
    wide = copy.deepcopy(plain)
    shard(wide, mesh, mp_policy=MixedPrecisionPolicy(torch.bfloat16, output_dtype=torch.float64))
    assert torch.equal(wide(ids()).logits, logits.double())
    found = {}
    for recomputed in (False, True):
        if recomputed:
            # Not in slices, because the filters have hooks of their own.
            made.activation_checkpointing_enable()
        made.zero_grad()
        losses(made, rank, RANKS).backward()
        found[recomputed] = gradients(made)
    # The sum over the ranks, in float32, of what each has.
    expected: dict[str, Tensor] = {}
    for other in range(RANKS):
        narrow.zero_grad()
        losses(narrow, other, RANKS).backward()
        for name, gradient in gradients(narrow).items():
            expected[name] = expected.get(name, 0) + gradient.float()
    for name, gradient in expected.items():
        for others in found.values():
            assert others[name].dtype == torch.float32
            assert torch.equal(others[name], gradient), name
    # Without this package's help, a policy would narrow the filters.
    other = copy.deepcopy(plain)
    fully_shard(other, mesh=mesh, mp_policy=BF16)
    with pytest.raises(TypeError, match="filters need float32: a policy of mixed precision"):
        other(ids())


def check_initialized(rank: int, mesh: DeviceMesh) -> None:
    """Weights for a model of the meta device: the bits of a plain one."""
    for fields in ({"train_freq": False, "filter_length": 20}, {"tie_word_embeddings": True}):
        plain = model(torch.float32, 3, **fields)
        for sharded in (True, False) if "train_freq" in fields else (True,):
            with torch.device("meta"):
                made: Any = HyenaDNAForCausalLM(config(**fields))
            if sharded:
                shard(made, mesh)
            before = torch.get_rng_state()
            initialize(made, "cpu", 3)
            assert torch.equal(torch.get_rng_state(), before)
            found = made.state_dict()
            assert found.keys() == plain.state_dict().keys()
            for name, tensor in plain.state_dict().items():
                own = found[name]
                assert isinstance(own, DTensor) == (sharded and "pos_emb" not in name and "deltas" not in name), name
                assert torch.equal(own.full_tensor() if isinstance(own, DTensor) else own, tensor), name
            for name, tensor in plain.named_buffers():
                assert torch.equal(made.get_buffer(name), tensor), name
            assert len({id(module.z) for module in made.modules() if hasattr(module, "z")}) == 1
            assert (
                made.lm_head.weight is made.hyena.backbone.embeddings.word_embeddings.weight
            ) == made.config.tie_word_embeddings
            losses(made, rank, RANKS).backward()


def check_bidirectional(rank: int, mesh: DeviceMesh) -> None:
    """Rows with pads under DDP and FSDP2, from the meta device too, with filters in float32 beside 16 bits."""
    own = config(bidirectional=True, n_layer=1, num_labels=3)
    given, labels = ids().masked_fill(torch.arange(33) < torch.tensor([[0], [9], [0], [20]]), 4), torch.arange(4) % 3
    torch.manual_seed(3)
    plain: Any = HyenaDNAForSequenceClassification(own).double().train()
    ddp: Any = DistributedDataParallel(copy.deepcopy(plain))
    sharded = copy.deepcopy(plain)
    shard(sharded, mesh)
    plain(given, labels=labels).loss.backward()
    for made in (ddp, sharded):
        made(given[rank::RANKS], labels=labels[rank::RANKS]).loss.backward()
        assert_same(gradients(made), gradients(plain))
    with torch.device("meta"):
        made = HyenaDNAForSequenceClassification(own)
    shard(made, mesh, mp_policy=BF16)
    initialize(made, "cpu", 3)
    taps: list[Tensor] = []
    for module in made.modules():
        if hasattr(module, "filter_settings"):
            module.register_forward_hook(lambda module, args, found: taps.append(found[0].detach().clone()))
    with torch.no_grad():
        logits, expected = made.eval()(given).logits, plain.float().eval()(given).logits
    assert torch.equal(taps[0], plain.hyena.backbone.layers[0].mixer.filter_fn.kernel(33))
    assert (logits.float() - expected).norm() < 0.05 * expected.norm()


def check_refusals(rank: int, mesh: DeviceMesh) -> None:
    made = model()
    both: Any = init_device_mesh("cpu", (1, RANKS), mesh_dim_names=("data", "context"))
    with pytest.raises(InputError, match="the mesh has 2 dimensions; flatten it"):
        shard(made, both)
    with pytest.raises(InputError, match='gradients must be "mean" or "sum", got \'all\''):
        shard(made, mesh, gradients="all")  # type: ignore[arg-type]
    shard(made, both["data", "context"]._flatten())
    with pytest.raises(InputError, match="sharded already"):
        shard(made, mesh)
    with pytest.raises(InputError, match="initialize: the model has weights already: make it under"):
        initialize(made, "cpu", 0)
    made.lm_head = nn.Linear(6, 9)
    with pytest.raises(InputError, match="initialize: the model has other parameters than its configuration makes"):
        initialize(made, "cpu", 0)


CHECKS: list[Callable[[int, DeviceMesh], None]] = [
    check_initialized, check_bidirectional, check_refusals, check_policies, check_inference, check_gradients,
]  # fmt: skip


def check_all(rank: int) -> None:
    mesh = init_device_mesh("cpu", (RANKS,))
    with warnings.catch_warnings():
        # It says that a block returns a view, on which its hooks could be lost.
        warnings.filterwarnings("error", message="FSDP2")
        for check in CHECKS:
            check(rank, mesh)


@pytest.mark.slow
def test_sharded_models_compute_what_plain_ones_do() -> None:
    run_ranks(RANKS, check_all, timeout=180)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A group of one process, which has the hooks of a larger one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.slow
def test_blocks_that_are_compiled(one_process: DeviceMesh) -> None:
    plain = model(n_layer=1)
    expected = expected_gradients(plain)
    for kind in ("fsdp", "ddp"):
        made = copy.deepcopy(plain)
        for block in made.hyena.backbone.layers:
            block.compile(backend="aot_eager" if kind == "fsdp" else "eager")
        if kind == "fsdp":
            shard(made, one_process)
        else:
            made = DistributedDataParallel(made)
        losses(made, 0, 1).backward()
        assert_same(gradients(made), expected)

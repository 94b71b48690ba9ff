"""Checkpoints of many ranks: any layout continues any other's, and a failure leaves what was there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hyenadna import DNATokenizer, HyenaDNAConfig, HyenaDNAForCausalLM, InputError
from hyenadna.common.world import SharedError
from hyenadna.model import checkpoint, locate
from hyenadna.model.convert import convert
from hyenadna.model.tokenizer import bare_tokenizer
from hyenadna.parallel import checkpoints
from hyenadna.parallel.sharding import shard
from hyenadna.training.optim import parameter_groups
from hyenadna.training.run_dir import _LEFTOVER
from tests.ranks import run_ranks

Weights = dict[str, Any]
STATE = {"step": 2, "seconds": 0.1, "scale": float("inf"), "genome": "abc", "nested": {"a": [1, None]}}


class Training:
    """A model in one of three layouts, and its AdamW."""

    def __init__(self, kind: str, *, seed: int = 0, weights: Any = None, **fields: Any) -> None:
        options: dict[str, Any] = {"d_model": 6, "n_layer": 1, "max_seq_len": 40, "filter_order": 8}
        options |= {"embed_dropout": 0.0, "tie_word_embeddings": True}
        made = HyenaDNAConfig(**(options | fields))
        self.rank, self.ranks = 0, 1
        torch.manual_seed(seed)
        self.model: Any = HyenaDNAForCausalLM(made).double()
        if weights is not None:
            self.model.load_state_dict(weights)
        if kind == "fsdp":
            shard(self.model, init_device_mesh("cpu", (dist.get_world_size(),)))
        self.call = DistributedDataParallel(self.model) if kind == "ddp" else self.model
        if kind != "plain":
            self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.1), lr=0.01)

    def steps(self, count: int) -> Training:
        """Train on the same four rows."""
        ids = torch.randint(7, 11, (4, 33), generator=torch.Generator().manual_seed(1))
        for _ in range(count):
            self.optimizer.zero_grad()
            self.call(ids[self.rank :: self.ranks], labels=ids[self.rank :: self.ranks]).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return self

    def save(self, folder: Path, state: dict[str, Any] | None = None, **options: Any) -> None:
        checkpoints.save(folder, self.model, self.optimizer, STATE if state is None else state, **options)

    def load(self, folder: Path) -> Training:
        assert checkpoints.load(folder, self.model, self.optimizer) == STATE
        return self

    def weights(self) -> Weights:
        """The whole weights, as arrays, which can be sent from one process to another."""
        found = {}
        for name, tensor in self.model.state_dict().items():
            found[name] = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).numpy().copy()
        return found


def assert_near(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= 1e-12 * np.abs(array).max(), name


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not np.array_equal(found[name], value)] == []


def full_disk(*args: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_failures(rank: int, made: Training, folder: Path) -> None:
    """A disk that is full on one rank, or when the folder gets its name."""
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    dist.barrier()
    told = []
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(checkpoints._File, "write", full_disk)
        with pytest.raises(SharedError) as caught:
            made.save(folder / "step-2")
        told.append(caught.value)
        saving = checkpoints.save_async(folder / "step-3", made.model, made.optimizer, STATE)
        with pytest.raises(SharedError) as caught:
            saving.wait()
        told.append(caught.value)
        saving.wait()
        assert saving.done()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "put_dir", full_disk)
        with pytest.raises(SharedError) as caught:
            made.save(folder / "step-2")
        told.append(caught.value)
    for error, name in zip(told, ("step-2", "step-3", "step-2"), strict=True):
        advice = "free some space or choose another place"
        assert str(error) == f"{folder / name}: cannot be written (No space left on device); {advice}"
        assert isinstance(error.__cause__, OSError)
        assert error.__cause__.errno == errno.ENOSPC
    with pytest.raises(TypeError if rank == 0 else RuntimeError, match="not JSON serializable"):
        made.save(folder / "step-3", {"step": {1, 2}})
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def write(rank: int, folder: Path) -> list[Weights]:
    """Checkpoints of step 2 in every layout; the weights two steps later, in the same layout and another."""
    for kind in ("ddp", "fsdp"):
        made = Training(kind).steps(2)
        made.save(folder / kind)
    # Steps go on while it is written.
    saving = checkpoints.save_async(folder / "async", made.model, made.optimizer, STATE)
    made.steps(2)
    assert not (folder / "async").exists()
    saving.wait()
    assert saving.done()
    check_failures(rank, made, folder)
    other = Training("ddp", seed=1).load(folder / "fsdp").steps(2)
    return [made.weights(), other.weights()]


def read(rank: int, folder: Path) -> list[Weights]:
    """The weights two steps after each checkpoint, in layouts of four ranks."""
    found = [Training("fsdp", seed=1).load(folder / "ddp").steps(2).weights()]
    # A checkpoint of one process.
    weights, state = torch.load(folder / "plain.pt", weights_only=True)
    made = Training("fsdp", weights=weights)
    checkpoints.load_plain_optimizer_state(made.model, made.optimizer, state)
    again = checkpoints.plain_optimizer_state(made.model, made.optimizer)
    assert again.keys() == (state.keys() if rank == 0 else set())
    if rank == 0:
        assert again["param_groups"] == state["param_groups"]
        for position, entries in state["state"].items():
            assert_same(again["state"][position], entries)
    return [*found, made.steps(2).weights()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of two ranks, and one of a plain process."""
    made = tmp_path_factory.mktemp("checkpoints")
    plain = Training("plain").steps(2)
    torch.save((plain.model.state_dict(), plain.optimizer.state_dict()), made / "plain.pt")
    found = run_ranks(2, write, made, timeout=180)
    expected = plain.steps(2).weights()
    for rank in found:
        for weights in rank:
            assert_near(weights, expected)
    np.savez(made / "four.npz", **expected)
    return made


@pytest.mark.slow
def test_any_number_of_ranks_continues(folder: Path) -> None:
    expected = dict(np.load(folder / "four.npz"))
    found = run_ranks(4, read, folder, timeout=180)
    for kind in ("ddp", "fsdp", "async"):
        found.append([Training("plain", seed=1).load(folder / kind).steps(2).weights()])
    for rank in found:
        for weights in rank:
            assert_near(weights, expected)


@pytest.mark.slow
def test_from_pretrained_loads_it(folder: Path) -> None:
    made = Training("plain", seed=1).load(folder / "fsdp")
    loaded = HyenaDNAForCausalLM.from_pretrained(folder / "fsdp", dtype=torch.float64)
    assert_same(loaded.state_dict(), made.weights())
    source = locate.find(folder / "fsdp")
    assert source is not None
    assert source.format == "dcp"
    assert sorted(checkpoint.weight_names(source)) == sorted(checkpoint.load_weights(source))
    assert checkpoints.is_sharded(folder / "fsdp")
    assert not checkpoints.is_sharded(folder)
    assert json.loads((folder / "fsdp" / "meta.json").read_text()) == STATE


def end_before_the_name(rank: int, folder: Path) -> None:
    made = Training("fsdp", n_layer=1)
    checkpoints._Draft._put = lambda self: os._exit(9)  # type: ignore[method-assign]
    # Rank 1 is told by gloo.
    with pytest.raises(RuntimeError):
        made.save(folder / "step-00000003")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    made = Training("plain").steps(2)
    made.save(tmp_path / "step-00000002")
    run_ranks(2, end_before_the_name, tmp_path, may_end=True, timeout=180)
    (kept,) = tmp_path.glob("step-*")
    (leftover,) = tmp_path.glob(".*")
    assert _LEFTOVER.fullmatch(leftover.name)
    assert_same(Training("plain", seed=1).load(kept).weights(), made.weights())
    # It is replaced as a whole.
    made.steps(1).save(kept)
    assert_same(Training("plain", seed=1).load(kept).weights(), made.weights())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Path]:
    folder = tmp_path_factory.mktemp("plain") / "step-1"
    made = Training("plain", n_layer=2).steps(1)
    made.save(folder)
    return made, folder


@pytest.fixture
def saved(original: tuple[Training, Path], tmp_path: Path) -> tuple[Training, Path]:
    shutil.copytree(original[1], tmp_path / "step-1")
    return original[0], tmp_path / "step-1"


def test_tensors_that_have_several_names_are_stored_once(saved: tuple[Training, Path]) -> None:
    made, folder = Training("plain", n_layer=2), saved[1]
    made.load(folder)
    layout = json.loads((folder / "dcp" / "layout.json").read_text())
    assert {(name, first) for name, first in layout["same"].items() if "layers.1.mixer.filter_fn.pos_emb" in name} == {
        (f"hyena.backbone.layers.1.mixer.filter_fn.pos_emb.{x}", f"hyena.backbone.layers.0.mixer.filter_fn.pos_emb.{x}")
        for x in "zt"
    }
    assert layout["same"]["lm_head.weight"] == "hyena.backbone.embeddings.word_embeddings.weight"
    other = Training("plain", seed=1, n_layer=2).load(folder)
    positions = [block.mixer.filter_fn.pos_emb for block in other.model.hyena.backbone.layers]
    assert positions[0].z is positions[1].z
    # A layer may have positions of its own, and a model that shares them then takes them apart.
    weights = made.model.state_dict()
    of_second = {name: 2 * x for name, x in weights.items() if "layers.1.mixer.filter_fn.pos_emb" in name}
    made.model.load_state_dict(weights | of_second)
    made.save(folder, tokenizer=bare_tokenizer(40))
    assert_same(other.load(folder).weights(), made.weights())
    assert positions[0].z is not positions[1].z
    assert_same(Training("plain", n_layer=2).load(folder).weights(), made.weights())
    loaded = HyenaDNAForCausalLM.from_pretrained(folder, dtype=torch.float64)
    assert_same(loaded.state_dict(), made.weights())
    # Converted, it is a model as any other.
    convert(saved[1], saved[1].with_name("hf"))
    assert_same(HyenaDNAForCausalLM.from_pretrained(saved[1].with_name("hf")).state_dict(), made.weights())
    tokenizer = DNATokenizer.from_pretrained(saved[1].with_name("hf"))
    assert tokenizer("ACGT")["input_ids"] == [7, 8, 9, 10]


def test_before_the_first_step_there_is_no_state_of_the_optimizer(tmp_path: Path) -> None:
    made = Training("plain")
    made.save(tmp_path / "step-0")
    other = Training("plain", seed=1).steps(1).load(tmp_path / "step-0")
    assert not other.optimizer.state
    assert_same(other.steps(2).weights(), made.steps(2).weights())


def test_the_optimizer_keeps_what_its_device_decides(tmp_path: Path) -> None:
    made = Training("plain").steps(1)
    for group in made.optimizer.param_groups:
        group["lr"] = 0.003
    made.save(tmp_path / "a")
    other = Training("plain")
    rate = torch.tensor(0.5, dtype=torch.float64)
    other.optimizer = torch.optim.AdamW(parameter_groups(other.model, 0.7), lr=rate, capturable=True, betas=(0.5, 0.6))
    group = other.load(tmp_path / "a").optimizer.param_groups[0]
    assert group["capturable"] is True
    assert isinstance(group["lr"], torch.Tensor)
    assert group["lr"].item() == 0.003
    assert (group["weight_decay"], group["betas"]) == (0.1, (0.9, 0.999))


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def damage(folder: Path, how: str) -> None:
    metadata = folder / "dcp" / ".metadata"
    part = folder / "dcp" / "__0_0.distcp"
    if how == "hostile":
        metadata.write_bytes(pickle.dumps(Hostile()))
    elif how == "no metadata":
        metadata.unlink()
    elif how == "cut metadata":
        metadata.write_bytes(metadata.read_bytes()[:100])
    elif how == "other metadata":
        metadata.write_bytes(pickle.dumps([1]))
    elif how == "no part":
        part.unlink()
    elif how == "cut part":
        part.write_bytes(part.read_bytes()[:20000])
    elif how == "layout":
        (folder / "dcp" / "layout.json").write_text("{}")
    elif how == "meta":
        (folder / "meta.json").write_text("{")


@pytest.mark.parametrize(
    "how", ["hostile", "no metadata", "cut metadata", "other metadata", "no part", "cut part", "layout", "meta"]
)
def test_a_damaged_checkpoint_is_named(saved: tuple[Training, Path], how: str) -> None:
    made, folder = saved
    damage(folder, how)
    with pytest.raises(InputError) as caught:
        made.load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: is damaged (")
    assert message.endswith("; remove it to continue from an earlier checkpoint")
    assert "\n" not in message
    if how != "meta":
        with pytest.raises(InputError, match="is damaged") as caught:
            HyenaDNAForCausalLM.from_pretrained(folder)
        assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused(saved: tuple[Training, Path]) -> None:
    made, folder = saved
    with pytest.raises(InputError, match=r"step-1: holds the weights of another model: hyena.backbone.layers.1\.") as e:
        checkpoints.load(folder, (other := Training("plain")).model, other.optimizer)
    assert "\n" not in str(e.value)
    other = Training("plain", n_layer=2, tie_word_embeddings=False)
    with pytest.raises(InputError, match="step-1: "):
        checkpoints.load(folder, other.model, other.optimizer)
    other = Training("plain", n_layer=2, d_model=7)
    with pytest.raises(InputError, match=r"word_embeddings.weight is \(16, 6\) .* there, and \(16, 7\) .* here"):
        checkpoints.load(folder, other.model, other.optimizer)
    other = Training("plain", n_layer=2)
    other.model.float()
    with pytest.raises(InputError, match=r"in torch.float64 there, and .* in torch.float32 here"):
        checkpoints.load(folder, other.model, other.optimizer)
    other = Training("plain", n_layer=2)
    other.optimizer = torch.optim.AdamW(other.model.parameters())
    with pytest.raises(InputError, match="step-1: is of an optimizer with other groups of parameters"):
        checkpoints.load(folder, other.model, other.optimizer)
    with pytest.raises(InputError, match="the state: is of an optimizer with other groups"):
        checkpoints.load_plain_optimizer_state(made.model, made.optimizer, other.optimizer.state_dict())
    stray = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(InputError, match="parameters that are not the model's: make it after sharding"):
        checkpoints.load(folder, made.model, stray)


def test_a_folder_that_is_not_shared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Training("plain")
    real = checkpoints._Draft.write

    def elsewhere(self: Any, tensors: Any) -> None:
        real(self, tensors)
        (self._draft / "dcp" / "__0_0.distcp").unlink()

    monkeypatch.setattr(checkpoints._Draft, "write", elsewhere)
    with pytest.raises(InputError, match=r"__0_0.distcp is missing there; the folder has to be on a file system that"):
        made.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []

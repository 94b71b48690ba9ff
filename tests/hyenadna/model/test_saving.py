"""``save_pretrained`` with many processes: sharded weights are gathered and written once, others by who is asked."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, InputError
from hyenadna.model import gathering
from tests.ranks import run_ranks

IDS = torch.tensor([[7, 8, 9, 10, 8, 8]])


def made(kind: Any = HyenaDNAForCausalLM, **fields: Any) -> Any:
    torch.manual_seed(1)
    sizes = {"d_model": 8, "n_layer": 2, "filter_order": 8, "max_seq_len": 32}
    return kind(HyenaDNAConfig(**{**sizes, **fields})).train()


def sharded(model: Any, *shape: int) -> Any:
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    for block in model.hyena.backbone.layers:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


def check_equal_to_the_plain_save(rank: int, place: Path) -> None:
    # transformers asks for a newer peft to write an adapter. The one that is here does it too.
    transformers.integrations.peft.check_peft_version = lambda **_: None
    adapter = place / f"lora-{rank}"
    base = made(tie_word_embeddings=True)
    base.save_pretrained(adapter / "base")
    base = HyenaDNAForCausalLM.from_pretrained(adapter / "base")
    get_peft_model(base, LoraConfig(target_modules=["in_proj"])).save_pretrained(adapter)
    for name, kind, fields, options in (
        ("untied", HyenaDNAForCausalLM, {}, {}),
        ("tied", HyenaDNAForCausalLM, {"tie_word_embeddings": True}, {"variant": "fp16"}),
        ("parts", HyenaDNAForSequenceClassification, {"num_labels": 3}, {"max_shard_size": "4KB"}),
        ("adapter", HyenaDNAForCausalLM, {"tie_word_embeddings": True}, {}),
    ):
        model = kind.from_pretrained(adapter) if name == "adapter" else made(kind, **fields)
        plain, ours = place / f"plain-{name}", place / name
        model.save_pretrained(plain, is_main_process=rank == 0, **options)
        sharded(model, *((2, 1) if name == "tied" else (2,)))
        # Between the passes of a step, blocks may hold whole weights.
        model(IDS)
        ours.mkdir(exist_ok=True)
        (ours / "other.txt").touch()
        model.save_pretrained(ours, **options)
        assert content(ours) == {**content(plain), "other.txt": b""}, name
        # What was saved before in other files is removed.
        if name == "parts":
            assert len(content(ours)) > 4
            model.save_pretrained(ours)
            assert content(ours).keys() == {"config.json", "model.safetensors", "other.txt"}


def check_everybody_is_told(rank: int, place: Path) -> None:
    for shape in ((2,), (2, 1), (1, 2)):
        assert gathering.everywhere(f"of {rank}", init_device_mesh("cpu", shape)) == {0: "of 0", 1: "of 1"}


def check_who_writes(rank: int, place: Path) -> None:
    model = sharded(made(), 2)
    model.save_pretrained(place / "nobody", is_main_process=False)
    assert not (place / "nobody").exists()
    model.save_pretrained(place / "second", is_main_process=rank == 1)
    assert "model.safetensors" in content(place / "second")
    # Whole weights that are given are written by the one process that has them, and no other is asked.
    if rank == 0:
        model.save_pretrained(place / "given", state_dict=made().state_dict())
        assert content(place / "given") == content(place / "second")
    else:
        model.save_pretrained(place / "none", state_dict=made().state_dict(), is_main_process=False)
    # So it is without shards.
    own = made()
    if rank == 0:
        own.save_pretrained(place / "alone")
    own.save_pretrained(place / f"own-{rank}", is_main_process=True)
    own.save_pretrained(place / "none", is_main_process=False)
    dist.barrier()
    assert content(place / "alone") == content(place / "own-1") == content(place / "second")
    assert not (place / "none").exists()


def check_several_write_at_once(rank: int, place: Path) -> None:
    model = made()
    model.save_pretrained(place / f"expected-{rank}")
    expected = content(place / f"expected-{rank}")
    dist.barrier()
    for _ in range(10):
        model.save_pretrained(place / "same")
        # Never a part of a file, whatever the other process is about.
        assert {name: (place / "same" / name).read_bytes() for name in expected} == expected
    dist.barrier()
    assert content(place / "same") == expected
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def check_failures_reach_all(rank: int, place: Path) -> None:
    import transformers.modeling_utils as theirs

    model = sharded(made(), 2)
    model.save_pretrained(place / "run")
    before, names = content(place / "run"), sorted(place.iterdir())
    dist.barrier()
    real = theirs.safe_save_file

    def failing(error: Exception) -> Callable[..., None]:
        def save(*args: Any, **kwargs: Any) -> None:
            raise error

        return save

    try:
        theirs.safe_save_file = failing(OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(InputError, match=r"run: cannot be written \(No space left on device\); free some space"):
            model.save_pretrained(place / "run")
        theirs.safe_save_file = failing(KeyError("something"))
        with pytest.raises(
            KeyError if rank == 0 else RuntimeError, match="something" if rank == 0 else "rank 0 failed"
        ):
            model.save_pretrained(place / "run")
    finally:
        theirs.safe_save_file = real
    dist.barrier()
    assert content(place / "run") == before
    assert sorted(place.iterdir()) == names
    dist.barrier()
    model.save_pretrained(place / "run")


def check_all(rank: int, place: Path) -> None:
    for check in (
        check_equal_to_the_plain_save,
        check_everybody_is_told,
        check_who_writes,
        check_several_write_at_once,
        check_failures_reach_all,
    ):
        folder = place / check.__name__
        folder.mkdir(exist_ok=True)
        dist.barrier()
        check(rank, folder)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    run_ranks(2, check_all, tmp_path)

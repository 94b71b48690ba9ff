"""A genome, models and a training run that are small enough for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.data.genome import prepare
from hyenadna.pretraining.train import PretrainConfig
from hyenadna.training import graphs


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What is compared bit for bit must be summed in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def graphs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device counts as CUDA for captured training steps. To launch one runs its operations again."""

    def capture(step: Callable[[], torch.Tensor], device: torch.device) -> tuple[Callable[[], None], torch.Tensor]:
        step()
        step()
        result = step()

        def launch() -> None:
            result.copy_(step())

        return launch, result

    monkeypatch.setattr(graphs, "_is_cuda", lambda tensor: True)
    monkeypatch.setattr(graphs, "_capture", capture)


@pytest.fixture(scope="session")
def tiny_fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Contigs a (4,040 nucleotides, 40 of them N), b (900) and c (500)."""
    rng = np.random.default_rng(0)
    letters = {name: "".join(rng.choice(list("ACGT"), size)) for name, size in (("a", 4000), ("b", 900), ("c", 500))}
    letters["a"] = letters["a"][:1000] + 40 * "N" + letters["a"][1000:]
    path = tmp_path_factory.mktemp("fasta") / "tiny.fa"
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in letters.items()))
    return path


@pytest.fixture(scope="session")
def tiny_genome(tiny_fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the prepared genome."""
    return prepare(tiny_fasta, tmp_path_factory.mktemp("genome") / "tiny", progress=False).folder


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Makes a model with the same random weights at every call.

    ``noise`` is the spread of random numbers that are added to every weight: an untrained model is almost the same
    function of every base. Other arguments are the class, and fields of its configuration.
    """

    def make(kind: Any = HyenaDNAForCausalLM, *, noise: float = 0.0, **fields: Any) -> Any:
        torch.manual_seed(1)
        model = kind(HyenaDNAConfig(**{"d_model": 8, "n_layer": 1, "filter_order": 8, "max_seq_len": 64} | fields))
        for parameter in model.parameters():
            parameter.data += noise * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves what ``tiny_model`` makes, and returns the folder."""

    def make(*args: Any, **fields: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint") / "model"
        tiny_model(*args, **fields).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_config(tiny_genome: Path) -> Callable[..., PretrainConfig]:
    """Makes the configuration of a run of 12 steps into a folder, with changes to its fields.

    Dropout, accumulation and both warm-ups are on: whatever a resumed run could get wrong.
    """

    def make(out: Path, **changes: Any) -> PretrainConfig:
        fields = {
            "valid_contigs": ["b"],
            "test_contigs": ["c"],
            "max_n_fraction": 0.5,
            "d_model": 16,
            "max_seq_len": 64,
            "embed_dropout": 0.1,
            "length": 32,
            "batch_size": 4,
            "accumulate": 2,
            "warmup_length": 16,
            "warmup_length_steps": 4,
            "steps": 12,
            "lr": 1e-2,
            "lr_warmup": 0.2,
            "device": "cpu",
            "log_every": 1,
            "eval_every": 5,
            "eval_windows": 2,
            "final_windows": 4,
            "checkpoint_every": 3,
        }
        return PretrainConfig(genome=tiny_genome, out=out, **fields | changes)

    return make

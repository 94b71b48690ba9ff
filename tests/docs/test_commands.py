"""Every command and every Python block of README, docs and examples, run page by page as they stand there.

Verbs run in this process on small inputs; what takes long is made smaller by options that come after those of the page.
What cannot run here is in ``NOT_RUN`` with its reason, and is held against ``make -n`` or the command's own ``--help``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hyenadna.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LOG = ROOT / "docs" / "LOG.md"

NOT_RUN = {
    "pip install": "downloads; tests/test_packaging.py builds and installs wheels",
    "curl -O": "downloads",
    "hf download": "downloads",
    'python -c "from genomic_benchmarks': "downloads",
    "make": "each target is minutes of work, or needs a GPU; `make -n` says that it exists",
    "pytest bench/": "minutes; tests/bench/suite runs it at small sizes",
    ".venv/bin/": "runs this very test suite, or reformats the tree",
    "python -m hyena_kernels --build": "compiles for a minute; tests/hyena_kernels/test_build.py covers it",
    "python -m hyena_kernels.testing.resources": "compiles for minutes; the tests of resources run parts of it",
    "python -m bench.suite": "minutes; tests/bench/suite runs it at small sizes",
    "python -m bench.kernels.targets": "measures for minutes",
    "python -m bench.kernels.far_field_errors": "measures for minutes; tests/bench/kernels runs it at a small length",
    "python -m bench.kernels.far_field": "measures for minutes; tests/bench/kernels runs it at a small length",
    "python -m bench.kernels.bands": "reads checkpoints of runs of hours; tests/bench/kernels runs it on a small one",
    "python -m bench.kernels.thread_scaling": "measures for minutes",
    "python -m bench.kernels.two_sided": "measures for minutes; tests/bench/kernels/test_two_sided.py runs it",
    "python -m bench.kernels.bidirectional": "measures for minutes; tests/bench/kernels/test_bidirectional.py runs it",
    "python -m bench.kernels.cpp_accuracy": "measures for minutes",
    "TRITON_INTERPRET=1 python -m bench.kernels.triton_accuracy": "interpreted in a fresh process, for minutes",
    "python -m bench.kernels.long_context": "a forward pass of minutes over 4 GB",
    "python -m bench.kernels.step_memory": "training steps of minutes; tests/hyenadna/model/test_sliced.py runs it",
    "python -m bench.kernels.packed_commands": "measures for minutes; tests/bench/kernels runs it at a small size",
    "python -m bench.kernels.operator_vs_published": "measures for a minute",
    "python -m bench.kernels.porting": "measures for a minute; tests/bench/kernels runs it at a small size",
    "python -m bench.kernels.packing": "measures for minutes; tests/bench/kernels runs it at small sizes",
    "python -m bench.kernels.short_conv": "measures for a minute",
    "python -m bench.kernels.cluster --check": "starts processes; tests/bench/kernels runs its cases",
    "python -m bench.kernels.cluster --page": "writes into the repository; tests/bench/kernels compares it",
    "python -m bench.kernels.sparse_filters": "needs a trained model; tests/bench/kernels runs it with a small one",
    "python -m bench.report --readme README.md": "writes into the repository; tests/bench/report compares it",
    "python examples/ablations/run.py": "an hour of training; tests/examples runs its parts",
    "hyenadna mutate --fasta hg38.fa": "needs files of DepMap; tests/hyenadna/cancer has small ones of the same layout",
    "python examples/cancer/cost.py": "measures for minutes; tests/examples runs it at a small size",
    "python tests/": "compiles for minutes; the tests beside it run parts of it",
    "python examples/cancer/synthetic.py --fasta yeast": "a process of seconds; tests/hyenadna/cancer runs its parts",
    "hyenadna mutate --fasta yeast": "needs the mutations of the line before it",
    "hyenadna cancer": "trains several models; tests/hyenadna/cancer/test_study.py runs it on small tables",
    "torchrun": "starts processes for many seconds; tests/hyenadna/pretraining and test_distributed.py run several",
    "srun": "needs Slurm; test_distributed.py runs the script with another srun",
    "head=$(scontrol": "needs Slurm, as above",
    "hyenadna plot embeddings --embeddings genes.npz --method umap": "umap-learn compiles for many seconds",
    "hyenadna embed --model hyenadna-medium-160k": "genes of the human genome; the page embeds small ones above",
    "hyenadna probe --embeddings biotypes.npz": "needs them; tests/hyenadna/cli/test_probing.py runs the preset",
}
"""Beginnings of commands that do not run here, and why."""

SMALLER = {
    "pretrain": "--steps 2 --d_model 8 --n_layer 1 --length 32 --batch_size 2 --eval_windows 2 --final_windows 2 "
    "--eval_length 32 --checkpoint_every 2 --max_n_fraction 0.5",
    "enbed pretrain": "--steps 2 --length 32 --mean_span 5 --batch_size 2 --eval_windows 2 --final_windows 2 "
    "--checkpoint_every 2 --model_fields {}",
    "enbed noise": "--length 32 --train_examples 8 --valid_examples 4 --test_examples 6 --epochs 1 --seeds [0] "
    "--scales [1.0] --divergence [0.1] --kmer 2 --jobs 1",
    "enbed annotate": "--steps 2 --batch_size 2 --beams 2 --kmer 2 --most 64",
    "enbed evolve": "--steps 2 --batch_size 8 --tree_pairs 4",
    "evaluate": "--max_windows 2 --markov_order 1",
    "finetune": "--epochs 1 --seeds [0] --jobs 1",
    "generate": "--length 8",
    "examples/striped_block/striped_block.py": "--length 512",
}
"""Options of a verb or a script that come after those of the page."""
MADE = {"examples/yeast/README.md": {"runs"}}
"""What a page makes without naming it in a command."""
UNFROZEN = "--epochs 2 --unfreeze_every 1 --unfreeze_layers 1"
SCRATCH = "--d_model 8 --n_layer 1 --max_seq_len 256 --model_fields {}"


class Command(NamedTuple):
    """A line of a shell block, or a whole block of Python."""

    language: str
    text: str


def commands(markdown: str) -> Iterator[Command]:
    """Lines and blocks in the order of the page; ``\\`` at the end of a line continues it."""
    for language, content in re.findall(r"^```(\w*)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
        if language == "python":
            yield Command(language, content)
        elif language == "sh":
            for line in content.replace("\\\n", " ").splitlines():
                text = line.split("  #")[0].strip()
                # A script has lines that are comments.
                if text and not text.startswith("#"):
                    yield Command(language, text)
        else:
            assert language in ("text", "yaml", ""), language


def mentioned(markdown: str) -> set[str]:
    """Commands within the text, whose options and targets have to exist as well."""
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`((?:make [a-z]|python -m [a-z]|hyenadna [a-z])[^`]*)`", text))


def reason(text: str) -> str | None:
    """Why a command does not run here; None where it does."""
    return next((f"{start}: {why}" for start, why in NOT_RUN.items() if text.startswith(start)), None)


def made_by(found: list[Command]) -> set[str]:
    """Names of files and folders that the page itself writes."""
    text = "\n".join(command.text for command in found if not reason(command.text))
    return set(re.findall(r"(?:--out |> |(?<!\.)open\(\")([\w./-]+)", text))


def run(command: Command, where: Path) -> None:
    """Run one command in the current folder."""
    if command.language == "python":
        exec(compile(command.text, "page", "exec"), {"__name__": "page"})
        return
    words = shlex.split(command.text)
    if words[0] == "hyenadna" and "|" not in words:
        verb = " ".join([words[1], *kind_of(words)])
        extra = SMALLER.get(verb, "").split() if "--resume" not in words else []
        if "scratch" in words or ("--ablation" in words and "--model" not in words):
            extra += SCRATCH.split()
        if verb == "enbed evolve" and "--simulate" in words:
            extra += ["--simulate", "60"]
        if "--unfreeze_every" in words:
            extra += UNFROZEN.split()
        cli.main([*words[1:], *extra])
    elif words[:2] == ["python", "-m"]:
        run_module(words[2], words[3:])
    else:
        extra = SMALLER.get(words[1], "") if words[0] == "python" else ""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(
            ["bash", "-c", f"set -eo pipefail; {command.text} {extra}"], check=True, cwd=where, env=environment
        )


def run_module(module: str, arguments: list[str]) -> str:
    """``python -m`` in this process; its output."""
    before, out, code = sys.argv, io.StringIO(), None
    sys.argv = [module, *arguments]
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    assert code in (0, None), (module, arguments, code)
    return out.getvalue()


def kind_of(words: list[str]) -> list[str]:
    """The word after a group of verbs, as in ``hyenadna plot training``; nothing after another verb."""
    return [word for word in words[2:3] if word in cli.GROUPS.get(words[1], ())]


def check(text: str) -> None:
    """Hold a command that is not run against what it names: a target of make, options of a module, a file."""
    words = [word for word in shlex.split(text, comments=True) if not re.fullmatch(r"[A-Z_]+=\w+", word)]
    if words[0] == "make":
        target = next(word for word in words[1:] if "=" not in word)
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), text
    elif words[:2] == ["python", "-m"]:
        check_options(words[3:], help_of(words[2]), text)
    elif words[0] == "hyenadna":
        check_options(
            words[2:],
            help_of_verb(words[1], *(word for word in words[2:3] if word in cli.GROUPS.get(words[1], ()))),
            text,
        )
    elif "torchrun" in words:
        launcher, _, program = " ".join(words[words.index("torchrun") + 1 :]).partition(" -m hyenadna ")
        check_options(launcher.split(), help_of("torch.distributed.run"), text)
        if program:
            verb, *options = program.split()
            check_options(options, help_of_verb(verb), text)
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), text


def check_options(words: list[str], shown: str, text: str) -> None:
    """Hold the options among the words of a command against what its ``--help`` prints."""
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in shown, f"{option} of: {text}"


_HELP: dict[str, str] = {}


def help_of(module: str) -> str:
    """What ``python -m MODULE --help`` prints."""
    if module not in _HELP:
        _HELP[module] = run_module(module, ["--help"])
    return _HELP[module]


def help_of_verb(verb: str, *plot: str) -> str:
    """What ``hyenadna VERB --help`` prints."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([verb, *plot, "--help"])
    return shown.getvalue()


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_page_runs(page: Path, workplace: Callable[[set[str]], Path]) -> None:
    markdown = page.read_text(encoding="utf-8")
    found = [] if page == LOG else list(commands(markdown))
    where = workplace(made_by(found) | MADE.get(name(page), set())) if found else page.parent
    for command in found:
        if command.language == "sh" and reason(command.text):
            check(command.text)
        else:
            run(command, where)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if page != LOG], ids=name)
def test_every_command_within_the_text_exists(page: Path) -> None:
    for text in mentioned(page.read_text(encoding="utf-8")):
        words = shlex.split(text)
        if words[0] == "hyenadna":
            verb, options = words[1], [word for word in words[2:] if word.startswith("--")]
            if verb == "VERB":
                continue
            assert verb in cli.VERBS, text
            shown = help_of_verb(verb, *kind_of(words))
            assert all(option in shown for option in options), text
        else:
            check(text)


def test_every_exception_is_used() -> None:
    texts = [command.text for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]
    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)] == []

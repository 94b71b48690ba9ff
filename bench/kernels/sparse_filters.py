"""Measure what a trained model loses with shorter filters, and with filters of fewer frequencies, on a FASTA.

Each row computes all windows with filters that are changed in one way. The last column is the loss in nats per base;
lower is better. Filters that see the future are measured too, because a masked spectrum as in FlashFFTConv makes such
filters: a model with them reads part of the answer, so its loss cannot be compared with the others.

python -m bench.kernels.sparse_filters run/model genome.fa chrX
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyena_kernels import fftconv, short_conv
from hyena_kernels.frequency_sparse import frequency_sparse, low_pass
from hyenadna import HyenaDNAForCausalLM
from hyenadna.data.sources import open_sequences
from hyenadna.model.loss import next_token_loss


@contextmanager
def changed_filters(model: HyenaDNAForCausalLM, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Apply ``change`` to the filters ``(D, L)`` of every layer."""

    def hook(module: Any, args: Any, found: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        return change(found[0]), found[1]

    with ExitStack() as stack:
        for layer in model.hyena.backbone.layers:
            stack.callback(layer.mixer.filter_fn.register_forward_hook(hook).remove)  # type: ignore[union-attr, operator]
        yield


@contextmanager
def two_sided_filters(model: HyenaDNAForCausalLM, mask: Tensor) -> Iterator[None]:
    """Compute every mixer of order 2 with filters of a masked spectrum, whose taps at negative lags stay."""

    def mixed(mixer: Any, args: tuple[Tensor, ...], found: Tensor) -> Tensor:
        (u,) = args
        length = u.shape[1]
        k, D = mixer.filters(length)
        taps = frequency_sparse(k[0], mask, length=length, causal=False)
        short = mixer.short_filter
        p = short_conv(mixer.in_proj(u).transpose(1, 2), short.weight.squeeze(1), short.bias)
        after, before, v = p.split(mixer.d_model, dim=1)
        y = fftconv(v, taps, None if D is None else D[0], pre_gate=before, post_gate=after, causal=False)
        result: Tensor = mixer.out_proj(y.transpose(1, 2))
        return result

    with ExitStack() as stack:
        for layer in model.hyena.backbone.layers:
            stack.callback(layer.mixer.register_forward_hook(mixed).remove)  # type: ignore[union-attr, operator]
        yield


def windows(fasta: Path, contig: str, length: int, count: int) -> Tensor:
    """Ids ``(count, length + 1)`` of windows that are evenly spaced over a contig."""
    with open_sequences(fasta=fasta, progress=False) as sequences:
        for record in sequences:
            if record.name == contig:
                starts = np.linspace(0, len(record.ids) - length - 1, count).astype(int)
                return torch.from_numpy(np.stack([record.ids[start : start + length + 1] for start in starts])).long()
    raise SystemExit(f"{fasta}: has no contig {contig}")


@torch.no_grad()
def nats(model: HyenaDNAForCausalLM, ids: Tensor, skipped: int) -> float:
    """Mean loss per base of the positions from ``skipped`` on."""
    total = sum(next_token_loss(model(row[None, :-1]).logits[:, skipped:], row[None, skipped + 1 :]) for row in ids)
    return float(total) / ids[:, skipped + 1 :].numel()


def measure(model: HyenaDNAForCausalLM, ids: Tensor) -> list[dict[str, Any]]:
    """All rows: what is kept, its share, and the loss.

    Args:
        model: in ``eval()``, of order 2.
        ids: ``(S, L + 1)``.
    """
    length = ids.shape[1] - 1
    size = 1 << (2 * length - 1).bit_length()
    rows = [{"filters": "all taps and frequencies", "kept": 1.0, "nats": nats(model, ids, 0)}]
    for share in (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64):
        taps = max(1, round(share * length))
        with changed_filters(model, lambda k, taps=taps: k * (torch.arange(k.shape[1]) < taps)):  # type: ignore[misc]
            rows.append({"filters": "the first taps", "kept": share, "nats": nats(model, ids, 0)})
    for share in (3 / 4, 1 / 2, 1 / 4, 1 / 8, 1 / 16):
        mask = low_pass(size, keep=share)

        def low(k: Tensor, mask: Tensor = mask) -> Tensor:
            return frequency_sparse(k, mask, length=k.shape[1], causal=True)

        with changed_filters(model, low):
            rows.append({"filters": "the lowest frequencies, causal", "kept": share, "nats": nats(model, ids, 0)})
        with two_sided_filters(model, mask):
            rows.append({"filters": "the lowest, sees the future", "kept": share, "nats": nats(model, ids, 0)})
    return rows


def beyond(path: Path, fasta: Path, contig: str, trained: int, count: int) -> list[dict[str, Any]]:
    """The loss of sequences longer than the model was made for, with partial filters, and in windows.

    All are scored at the same positions, of the last ``trained`` bases of sequences of four times as many.
    """
    ids = windows(fasta, contig, 4 * trained, count)
    whole = HyenaDNAForCausalLM.from_pretrained(path).eval()
    last = ids[:, 3 * trained - trained // 2 :]
    rows = [
        {
            "filters": f"windows of {trained:,}, half of it context",
            "kept": 1.0,
            "nats": _in_windows(whole, last, trained),
        }
    ]
    for share in (1, 1 / 2, 1 / 4, 1 / 8):
        model = HyenaDNAForCausalLM.from_pretrained(path, filter_length=max(1, round(share * trained))).eval()
        rows.append(
            {"filters": f"one sequence of {4 * trained:,}", "kept": share, "nats": nats(model, ids, 3 * trained)}
        )
    return rows


def _in_windows(model: HyenaDNAForCausalLM, last: Tensor, trained: int) -> float:
    half = trained // 2
    found = [nats(model, last[:, start : start + 2 * half + 1], half) for start in (0, half)]
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.sparse_filters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="folder of a trained model of order 2")
    parser.add_argument("fasta", type=Path, help="FASTA with sequences it was not trained on")
    parser.add_argument("contig", help="sequence of the FASTA")
    parser.add_argument("--windows", type=int, default=32, help="windows to measure (default: %(default)s)")
    parser.add_argument("--length", type=int, help="bases of a window (default: what the model is made for)")
    parser.add_argument("--out", type=Path, help="JSON file for the rows (default: none)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = HyenaDNAForCausalLM.from_pretrained(args.model).eval()
    length = args.length or model.config.max_seq_len
    rows = measure(model, windows(args.fasta, args.contig, length, args.windows))
    rows += beyond(args.model, args.fasta, args.contig, length, args.windows)
    for row in rows:
        print(f"{row['filters']:<45} {row['kept']:>8.1%} {row['nats']:.4f}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

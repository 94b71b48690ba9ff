"""Count what a training step launches, and the processor time of launching it. Needs no GPU.

    python -m bench.kernels.step_launches
    python -m bench.kernels.step_launches --length 1024 --channels 128 --layers 2 --ops

The step is the one of ``hyenadna pretrain``: checkpointed, bfloat16, loss, backward pass, clipping and AdamW. Tensors
are on the CPU, and Triton's kernels are compiled for an H100 and not launched, as in ``bench.kernels.launch_overhead``.
torch's operations are counted as they reach the backend. A few launch more than one kernel on a GPU; the module lists
how many. The same launches are the nodes of a CUDA graph.

The time is the processor time of a whole step on one thread: Python, torch's dispatcher and autograd. It holds torch's
own CPU kernels too, so take few channels for it, as the default does. Every variant is timed in turn, and the least of
the rounds is printed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bench.common.timing import cpu_timer
from bench.kernels.launch_overhead import Launches, without_gpu
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.training.graphs import training_step
from hyenadna.training.optim import parameter_groups

_OURS = "hyena_kernels"

# Kernels of an operation that has not exactly one, in torch's CUDA sources. Norm: the input's gradient, and the
# weights'. Embedding: zeros and a sum, for at most 3,072 ids; more ids are sorted first. Loss: zeros and a scatter.
# Dropout is four operations on a CPU and one kernel on a GPU, for which its product counts. Only on a CPU are the ids
# of a batch looked at.
_KERNELS = {
    "aten::embedding_dense_backward": 2,
    "aten::native_layer_norm_backward": 2,
    "aten::nll_loss_backward": 2,
    "aten::bernoulli_": 0,
    "aten::div_": 0,
    "aten::aminmax": 0,
    "aten::_local_scalar_dense": 0,
    "aten::promote_types": 0,
}

# A kernel over a list of tensors takes at most so many of them, by the number of lists, in chunks of 65,536 elements,
# of which it takes at most 320 (ATen/native/cuda/MultiTensorApply.cuh).
_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_CHUNK, _CHUNKS = 65_536, 320

# Views that our own operations make. A profile does not tell them apart.
_VIEWS = {
    f"aten::{name}"
    for name in (
        "alias",
        "expand",
        "select",
        "slice",
        "split_with_sizes",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    )
}

# Operations that copy only where a view is impossible.
_PERHAPS_COPIES = {"aten::contiguous", "aten::flatten", "aten::reshape"}

# Microseconds of a node, from the 0.8 to 1.0 ms that 245 nodes were predicted to take on an H200. Not measured.
_NODE = (3.3, 4.1)


class Operations(TorchDispatchMode):
    """Counts the kernels of torch's operations inside the block, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        self.calls[name] += 1
        if not name.startswith(_OURS):
            self.kernels[name] += kernels_of(name, args, is_view=_is_view(function))
        return function(*args, **(kwargs or {}))


def kernels_of(name: str, args: Iterable[Any] = (), *, is_view: bool = False) -> int:
    """Kernels that an operation of torch launches on a GPU.

    Args:
        name: its name, with namespace.
        args: its arguments. Of an operation on lists, the lists say how many kernels it has.
        is_view: whether it only makes a view.
    """
    if is_view or "empty" in name or not name.startswith("aten::"):
        return 0
    if name in _KERNELS:
        return _KERNELS[name]
    lists = [arg for arg in args if isinstance(arg, list | tuple) and arg and isinstance(arg[0], Tensor)]
    if not name.startswith(("aten::_foreach", "aten::_fused")):
        return 1
    # AdamW reads weights, gradients and two moments. Other operations write their result to a list of its own.
    depth = 4 if name.startswith("aten::_fused") else len(lists) + (not name.endswith("_"))
    chunks = sum(-(-tensor.numel() // _CHUNK) for tensor in lists[0])
    launches = max(-(-len(lists[0]) // _TENSORS[min(depth, 5)]), -(-chunks // _CHUNKS))
    # The norm has a second kernel, which sums what the blocks of the first have found.
    return launches + (name == "aten::_foreach_norm")


def _copies(event: Any) -> bool:
    """Whether there is a copy inside an operation of a profile."""
    return any(child.name == "aten::copy_" or _copies(child) for child in event.cpu_children)


def _is_view(function: Any) -> bool:
    results = function._schema.returns
    return any(result.alias_info is not None and not result.alias_info.is_write for result in results)


class Count(NamedTuple):
    """What a step launches.

    Attributes:
        operations: calls of torch's operations, views and allocations included.
        torch_kernels: kernels of torch, by the operation.
        ours: kernels of Triton.
    """

    operations: int
    torch_kernels: Counter[str]
    ours: int

    @property
    def nodes(self) -> int:
        """Kernels of the step, which are the nodes of its CUDA graph."""
        return self.torch_kernels.total() + self.ours


def count(step: Callable[[], object]) -> Count:
    """Count what a step launches, after a first run that sets things up."""
    step()
    before = Launches.count
    with Operations() as seen:
        step()
    ours = Launches.count - before
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    kernels = seen.kernels
    for event in profiled.events() or []:
        # Operations of torch inside our own reach no dispatch mode. Those inside them are parts of one kernel.
        if event.cpu_parent is not None and event.cpu_parent.name.startswith(_OURS):
            is_view = event.name in _VIEWS or (event.name in _PERHAPS_COPIES and not _copies(event))
            kernels[f"{event.name} in {event.cpu_parent.name}"] += kernels_of(event.name, is_view=is_view)
    return Count(seen.calls.total(), +kernels, ours)


def variants(length: int, channels: int, layers: int) -> dict[str, Callable[[], Tensor]]:
    """The step in several forms: with the random state of checkpoints or without, and with either form of AdamW."""
    batch = torch.randint(7, 11, (1, length + 1), dtype=torch.uint8)

    def form(*, random_state: bool, **adamw: Any) -> Callable[[], Tensor]:
        model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=channels, n_layer=layers, max_seq_len=length)).train()
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": random_state})
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), **adamw)
        return partial(training_step, model, optimizer, batch, clip=1.0, autocast="bfloat16")

    return {
        "random state kept, AdamW over lists": form(random_state=True, foreach=True),
        "no random state, AdamW over lists": form(random_state=False, foreach=True),
        "no random state, fused AdamW": form(random_state=False, lr=torch.tensor(1e-3), fused=True, capturable=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.step_launches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--length", type=int, default=1024, help="tokens (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=16, help="width of the model (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="layers of the model (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="steps to take the least time of (default: %(default)s)")
    parser.add_argument("--ops", action="store_true", help="print torch's operations with their kernels (default: no)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    timer = cpu_timer()
    with without_gpu():
        steps = variants(options.length, options.channels, options.layers)
        counts = {name: count(step) for name, step in steps.items()}
        spent = {name: float("inf") for name in steps}
        for _ in range(options.rounds):
            for name, step in steps.items():
                spent[name] = min(spent[name], timer.time(step))
    print("| step | operations | kernels of torch | of Triton | together | ms |\n|---|---|---|---|---|---|")
    for name, found in counts.items():
        numbers = (found.operations, found.torch_kernels.total(), found.ours, found.nodes)
        print(f"| {name} | {' | '.join(map(str, numbers))} | {1e3 * spent[name]:.1f} |")
    least, most = (1e-3 * found.nodes * microseconds for microseconds in _NODE)
    print(
        f"\nAs one CUDA graph: {found.nodes} nodes, estimated at {least:.2f} to {most:.2f} ms, "
        f"with {_NODE[0]} to {_NODE[1]} µs a node."
    )
    if options.ops:
        print("\n| operation | kernels |\n|---|---|")
        for operation, kernels in found.torch_kernels.most_common():
            print(f"| {operation} | {kernels} |")


if __name__ == "__main__":
    main()

"""``embedding``: rows of a table by id, with a fast backward pass for the few tokens of DNA."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import embedding as torch_embedding
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import EmbeddingInputs
from hyena_kernels.registration import checks, library

_BACKENDS = ("triton", "torch")

_backend.register_op(
    "embedding",
    torch_embedding,
    supports={"triton": triton_support.embedding},
    supports_backward={"triton": triton_support.embedding_backward},
    backends=_BACKENDS,
)


def _fake(inputs: EmbeddingInputs) -> Tensor:
    return inputs.weight.new_empty((*inputs.ids.shape, inputs.weight.shape[1]))


_embedding_fwd = library.define_op("embedding", "Tensor ids, Tensor weight", EmbeddingInputs, _fake)


def embedding(ids: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """Rows of a table, ``y[...] = weight[ids[...]]``, as ``torch.nn.functional.embedding`` gives them.

    The gradient of ``weight`` is a sum over positions in float32, or in float64 for a float64 table. The kernel reads
    the gradient of the result once, without sorting the ids, and two runs give the same bits. It takes up to 64
    tokens; larger vocabularies run torch's own backward pass. Autocast has no effect. Differentiable once in
    ``weight``.

    Args:
        ids: ``(…)`` integers of any width, from 0 to V - 1, with any strides.
        weight: ``(V, D)``; float16, bfloat16, float32 or float64.
        backend: ``"triton"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(…, D)``, contiguous, of ``weight``'s dtype. An id out of range gives a row of NaN with ``"triton"``. With
        ``"torch"`` it is an IndexError on a CPU and a device-side assert on a GPU.

    Raises:
        TypeError: ``ids`` are no integers, or ``weight`` is not a dense tensor of a dtype named above.
        ValueError: ``weight`` has another number of dimensions or is empty, the tensors are on several devices, or
            ``backend`` is not the name of a backend.
        IndexError: an id is out of range, see above.
        BackendError: ``backend`` cannot run here.
    """
    checks.integers("embedding", "ids", ids, "(…)")
    checks.rank("embedding", "weight", weight, "(V, D)")
    if weight.shape[0] < 1 or weight.shape[1] < 1:
        raise ValueError(f"embedding: weight (V, D) has shape {tuple(weight.shape)}, expected V ≥ 1 and D ≥ 1")
    checks.same_device("embedding", ids=ids, weight=weight)
    result: Tensor = _embedding_fwd(ids, weight, _backend.requested(backend, _BACKENDS))
    return result


# See the end of fftconv.py.
embedding.embedding = embedding  # type: ignore[attr-defined]

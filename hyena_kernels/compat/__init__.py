"""Other libraries' calls of long and short convolutions, on the ops of this package.

A file a library: ``flashfftconv``, ``causal_conv1d``, ``safari`` (and hyena-dna), ``m2_bert``, ``cudnn`` (and
subquadratic_ops_torch) and ``fla``. Each function has the signature, the layout and the conventions of the original, or
refuses what it cannot do in one line. So a model needs another import and nothing else:

    from hyena_kernels.compat.flashfftconv import FlashFFTConv

:func:`use_as` puts a shim under the import name of its library, for code that cannot be changed. Nothing does this by
itself. ``import hyena_kernels`` does not load this package.

No code of the libraries is here. "What differs" in a docstring says where a shim takes more than the original, or gives
better results.
"""

from hyena_kernels.compat import causal_conv1d, cudnn, fla, flashfftconv, m2_bert, safari
from hyena_kernels.compat.stand_in import StandIn, use_as

__all__ = ["StandIn", "causal_conv1d", "cudnn", "fla", "flashfftconv", "m2_bert", "safari", "use_as"]

"""What tests and benchmarks hold the ops against. Nothing else in the package imports it.

- ``inputs.py``: ``<op>_inputs`` makes random arguments by name, as in ``fftconv(**fftconv_inputs(2, 3, 64))``.
- ``references.py``: ``reference_<op>`` is the op in plain PyTorch, in the dtype of its inputs.
- ``oracles.py`` and ``long_double.py``: ``oracle_<op>`` is the op without an FFT, for float64 inputs. An op without an
  FFT has its reference on float64 inputs as its oracle. ``implicit_filter`` has an oracle in long double too.
- ``budgets.py``: :func:`check` compares an op with both. Its error may be at most :func:`error_budget`.
- ``resources/``: what the compilers make of the GPU kernels. It is not part of wheels.

The references and oracles take the arguments of the op without ``backend``.
"""

from hyena_kernels.testing.budgets import OPS, Op, check, error_budget, relative_error, value_and_gradients
from hyena_kernels.testing.inputs import (
    Inputs,
    add_layer_norm_inputs,
    embedding_inputs,
    far_field_conv_inputs,
    fftconv_inputs,
    fftconv_varlen_inputs,
    gelu_inputs,
    hyena_mixer_far_inputs,
    hyena_mixer_inputs,
    hyena_mixer_step_inputs,
    hyena_mixer_varlen_inputs,
    implicit_filter_inputs,
    layer_norm_inputs,
    linear_cross_entropy_inputs,
    position_dropout_inputs,
    short_conv_inputs,
)
from hyena_kernels.testing.oracles import direct_conv, oracle_fftconv, oracle_hyena_mixer
from hyena_kernels.testing.references import (
    reference_add_layer_norm,
    reference_embedding,
    reference_far_field_conv,
    reference_fftconv,
    reference_fftconv_varlen,
    reference_gelu,
    reference_hyena_mixer,
    reference_hyena_mixer_far,
    reference_hyena_mixer_step,
    reference_hyena_mixer_varlen,
    reference_implicit_filter,
    reference_layer_norm,
    reference_linear_cross_entropy,
    reference_position_dropout,
    reference_short_conv,
    reference_short_conv_states,
)

__all__ = [
    "OPS",
    "Inputs",
    "Op",
    "add_layer_norm_inputs",
    "check",
    "direct_conv",
    "embedding_inputs",
    "error_budget",
    "far_field_conv_inputs",
    "fftconv_inputs",
    "fftconv_varlen_inputs",
    "gelu_inputs",
    "hyena_mixer_far_inputs",
    "hyena_mixer_inputs",
    "hyena_mixer_step_inputs",
    "hyena_mixer_varlen_inputs",
    "implicit_filter_inputs",
    "layer_norm_inputs",
    "linear_cross_entropy_inputs",
    "oracle_fftconv",
    "oracle_hyena_mixer",
    "position_dropout_inputs",
    "reference_add_layer_norm",
    "reference_embedding",
    "reference_far_field_conv",
    "reference_fftconv",
    "reference_fftconv_varlen",
    "reference_gelu",
    "reference_hyena_mixer",
    "reference_hyena_mixer_far",
    "reference_hyena_mixer_step",
    "reference_hyena_mixer_varlen",
    "reference_implicit_filter",
    "reference_layer_norm",
    "reference_linear_cross_entropy",
    "reference_position_dropout",
    "reference_short_conv",
    "reference_short_conv_states",
    "relative_error",
    "short_conv_inputs",
    "value_and_gradients",
]

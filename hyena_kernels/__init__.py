"""Fast Hyena operators: fused FFT convolution with gating, short convolution and implicit filters.

``fftconv``, ``fftconv_varlen``, ``short_conv``, ``implicit_filter`` and ``layer_norm`` are each the name of a public
function and of its module. ``from hyena_kernels import fftconv``, ``from hyena_kernels.fftconv import fftconv`` and
``import hyena_kernels.fftconv as m; m.fftconv(...)`` all reach the same function.
"""

from hyena_kernels import backend
from hyena_kernels._version import __version__
from hyena_kernels.backend import set_backend, use_backend
from hyena_kernels.backends.extension import build_ext
from hyena_kernels.embedding import embedding
from hyena_kernels.errors import BackendError, FarFieldError
from hyena_kernels.far_field import FarFieldFilter, far_field_filter, implicit_conv
from hyena_kernels.far_field_conv import far_field_conv
from hyena_kernels.fftconv import fftconv
from hyena_kernels.fftconv_varlen import fftconv_varlen
from hyena_kernels.filter_cache import cache_filters
from hyena_kernels.gelu import gelu
from hyena_kernels.implicit_filter import implicit_filter
from hyena_kernels.layer_norm import add_layer_norm, layer_norm
from hyena_kernels.linear_cross_entropy import linear_cross_entropy
from hyena_kernels.mixer import hyena_mixer
from hyena_kernels.mixer_far import hyena_mixer_far
from hyena_kernels.mixer_step import hyena_mixer_step
from hyena_kernels.mixer_varlen import hyena_mixer_varlen
from hyena_kernels.online_conv import OnlineConv
from hyena_kernels.operator import HyenaFilter, HyenaOperator
from hyena_kernels.position_dropout import position_dropout
from hyena_kernels.segments import SegmentPlan
from hyena_kernels.short_conv import short_conv, short_conv_update

__all__ = [
    "BackendError",
    "FarFieldError",
    "FarFieldFilter",
    "HyenaFilter",
    "HyenaOperator",
    "OnlineConv",
    "SegmentPlan",
    "__version__",
    "add_layer_norm",
    "backend",
    "build_ext",
    "cache_filters",
    "embedding",
    "far_field_conv",
    "far_field_filter",
    "fftconv",
    "fftconv_varlen",
    "gelu",
    "hyena_mixer",
    "hyena_mixer_far",
    "hyena_mixer_step",
    "hyena_mixer_varlen",
    "implicit_conv",
    "implicit_filter",
    "layer_norm",
    "linear_cross_entropy",
    "position_dropout",
    "set_backend",
    "short_conv",
    "short_conv_update",
    "use_backend",
]

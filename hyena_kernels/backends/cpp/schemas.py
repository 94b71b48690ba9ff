"""Schemas of the ops that ``csrc/cpu`` implements. Importing this loads the compiled libraries.

The ops of ``hyena_kernels_ext`` write into their arguments. Results are allocated in Python, where tests can poison
them, and workspace comes from torch's allocator. Only the files in this folder call them.
"""

from __future__ import annotations

import torch

from hyena_kernels.backends import extension

_LIBRARY = torch.library.Library("hyena_kernels_ext", "DEF")

_LIBRARY.define(
    "fftconv_fwd(Tensor(a!) y, Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, Tensor? post_gate, int tap) -> ()"
)
_LIBRARY.define(
    "fftconv_bwd(Tensor(a!)? du, Tensor(b!)? dk, Tensor(c!)? dD, Tensor(d!)? dpre_gate, Tensor(e!)? dpost_gate, "
    "Tensor dy, Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, Tensor? post_gate, int tap) -> ()"
)
_LIBRARY.define(
    "far_field_conv_fwd(Tensor(a!) y, Tensor u, Tensor near, Tensor nodes, Tensor? D, Tensor? pre_gate, "
    "Tensor? post_gate) -> ()"
)
_LIBRARY.define(
    "far_field_conv_bwd(Tensor(a!)? du, Tensor(b!)? dnear, Tensor(c!)? dnodes, Tensor(d!)? dD, Tensor(e!)? dpre_gate, "
    "Tensor(f!)? dpost_gate, Tensor dy, Tensor u, Tensor near, Tensor nodes, Tensor? D, Tensor? pre_gate, "
    "Tensor? post_gate) -> ()"
)
_LIBRARY.define(
    "hyena_mixer_far_fwd(Tensor(a!) y, Tensor x, Tensor short_weight, Tensor? short_bias, Tensor near, Tensor nodes, "
    "Tensor? D) -> ()"
)
_LIBRARY.define(
    "hyena_mixer_far_bwd(Tensor(a!)? dx, Tensor(b!)? dweight, Tensor(c!)? dbias, Tensor(d!)? dnear, "
    "Tensor(e!)? dnodes, Tensor(f!)? dD, Tensor dy, Tensor x, Tensor short_weight, Tensor? short_bias, Tensor near, "
    "Tensor nodes, Tensor? D) -> ()"
)
_LIBRARY.define(
    "short_conv_fwd(Tensor(a!) y, Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, bool silu) -> ()"
)
_LIBRARY.define(
    "short_conv_bwd(Tensor(a!)? dx, Tensor(b!)? dweight, Tensor(c!)? dbias, Tensor(d!)? dinitial_state, Tensor dy, "
    "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, bool silu) -> ()"
)
_LIBRARY.define(
    "hyena_mixer_fwd(Tensor(a!) y, Tensor x, Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D) -> ()"
)
_LIBRARY.define(
    "hyena_mixer_bwd(Tensor(a!)? dx, Tensor(b!)? dweight, Tensor(c!)? dbias, Tensor(d!)? dk, Tensor(e!)? dD, "
    "Tensor dy, Tensor x, Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D) -> ()"
)
_LIBRARY.define(
    "hyena_mixer_step(Tensor(a!) y, Tensor(b!) short_state, Tensor(c!) u, Tensor x, Tensor short_weight, "
    "Tensor? short_bias, Tensor future, Tensor taps, int t, int window) -> ()"
)
_LIBRARY.define(
    "fftconv_varlen_fwd(Tensor(a!) y, Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, Tensor? post_gate, Tensor rows) "
    "-> ()"
)
_LIBRARY.define(
    "fftconv_varlen_bwd(Tensor(a!)? du, Tensor(b!)? dpre_gate, Tensor(c!)? dpost_gate, Tensor(d!)? dk, Tensor(e!)? dD, "
    "Tensor(f!)? dk_part, Tensor(g!)? dD_part, Tensor dy, Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, "
    "Tensor? post_gate, Tensor rows) -> ()"
)
_LIBRARY.define(
    "hyena_mixer_varlen_fwd(Tensor(a!) y, Tensor x, Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D, "
    "Tensor rows) -> ()"
)
_LIBRARY.define(
    "hyena_mixer_varlen_bwd(Tensor(a!)? dx, Tensor(b!)? dweight, Tensor(c!)? dbias, Tensor(d!)? dk, Tensor(e!)? dD, "
    "Tensor(f!)? dweight_part, Tensor(g!)? dbias_part, Tensor(h!)? dk_part, Tensor(i!)? dD_part, Tensor dy, Tensor x, "
    "Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D, Tensor rows) -> ()"
)
_LIBRARY.define(
    "project_fwd(Tensor(a!) first, Tensor(b!) gates, Tensor x, Tensor short_weight, Tensor? short_bias) -> ()"
)
_LIBRARY.define(
    "project_bwd(Tensor(a!)? dx, Tensor(b!)? dweight, Tensor(c!)? dbias, Tensor dfirst, Tensor dgates, "
    "Tensor x, Tensor short_weight, Tensor? short_bias) -> ()"
)
_IMPLICIT_FILTER = (
    "Tensor z, Tensor freq, Tensor w_in, Tensor b_in, Tensor w_hidden, Tensor b_hidden, Tensor w_out, Tensor? t, "
    "Tensor? deltas, float shift"
)
_LIBRARY.define(f"implicit_filter_fwd(Tensor(a!) k, {_IMPLICIT_FILTER}) -> ()")
_LIBRARY.define(
    "implicit_filter_bwd(Tensor(a!)? dz, Tensor(b!)? dfreq, Tensor(c!)? dw_in, Tensor(d!)? db_in, "
    "Tensor(e!)? dw_hidden, Tensor(f!)? db_hidden, Tensor(g!)? dw_out, Tensor(h!)? dt, Tensor(i!)? ddeltas, "
    f"Tensor(j!) sums, Tensor dk, {_IMPLICIT_FILTER}, int chunk) -> ()"
)

_LIBRARY.define("gelu_fwd(Tensor(a!) y, Tensor x) -> ()")
_LIBRARY.define("gelu_bwd(Tensor(a!) dx, Tensor dy, Tensor x) -> ()")
_LIBRARY.define(
    "position_dropout(Tensor(a!) y, Tensor x, Tensor samples, int seed, int offset, int threshold, float scale) -> ()"
)
_LIBRARY.define(
    "layer_norm_fwd(Tensor(a!) y, Tensor(b!)? total, Tensor residual, Tensor? x, Tensor weight, Tensor bias, "
    "float eps, bool wide) -> ()"
)
_LIBRARY.define(
    "layer_norm_bwd(Tensor(a!)? dresidual, Tensor(b!)? copy, Tensor(c!)? dweight, Tensor(d!)? dbias, "
    "Tensor(e!)? sums, Tensor dy, Tensor? dtotal, Tensor residual, Tensor weight, float eps, int chunk, "
    "bool wide) -> ()"
)

extension.load_libraries()

ops = torch.ops.hyena_kernels_ext

"""Schemas of the ops that ``csrc/cuda`` implements. Importing this loads the compiled libraries.

``cpp/schemas.py`` has the other ops of ``hyena_kernels_ext``. These have other names, because Python composes the
sequence of kernels on a GPU. ``(D, 2 P)`` stands for P complex numbers.
"""

from __future__ import annotations

import torch

from hyena_kernels.backends import extension

_LIBRARY = torch.library.Library("hyena_kernels_ext", "FRAGMENT")

SCHEMAS = (
    # csrc/cuda/fftconv_rows.h
    "fftconv_row_points(int length) -> int",
    "fftconv_row_bytes(int points, int spectra) -> int",
    "fftconv_rows(Tensor(a!)? result, Tensor(b!)? du, Tensor(c!)? dpre_gate, Tensor(d!)? sums, Tensor u, "
    "Tensor? pre_gate, Tensor k, Tensor? D, Tensor? dy, Tensor? post_gate, Tensor? factor, int tap, int points, "
    "int chunk) -> ()",
    # csrc/cuda/fftconv_passes.h
    "fftconv_passes_points(int length) -> int",
    "fftconv_passes_bytes(int points, int spectra) -> int",
    "fftconv_passes(Tensor(a!)? result, Tensor(b!)? du, Tensor(c!)? dpre_gate, Tensor(d!)? sums, Tensor u, "
    "Tensor? pre_gate, Tensor k, Tensor? D, Tensor? dy, Tensor? post_gate, Tensor? factor, Tensor(e!) scratch, "
    "int tap, int points) -> ()",
    # csrc/cuda/fftconv_long.h
    "fftconv_weight(Tensor(a!) rows, Tensor signal, Tensor? gate, Tensor? D, int tap, int shift) -> ()",
    "fftconv_product(Tensor(a!)? signal, Tensor(b!)? grad, Tensor? filter, Tensor(c!)? sum, bool accumulate, "
    "bool multiply_signal, bool turn_grad) -> ()",
    "fftconv_unweight(Tensor rows, Tensor(a!) y, Tensor? factor, Tensor(b!)? y2, Tensor? factor2, int shift) -> ()",
    # csrc/cuda/fftconv_skip.h
    "fftconv_skip_spans(int length) -> int",
    "fftconv_skip(Tensor(a!) sums, Tensor dy, Tensor u, Tensor? pre_gate, Tensor? post_gate) -> ()",
    # csrc/cuda/short_conv.h
    "short_conv_tiles(Tensor(a!) y, Tensor x, Tensor weight, Tensor? bias, int parts, int x_part, int row_part, "
    "int y_part, bool pair) -> ()",
    "short_conv_tiles_backward(Tensor(a!)? dx, Tensor(b!)? sums, Tensor dy, Tensor x, Tensor weight, Tensor? bias, "
    "int x_part, int row_part, int dx_part, int spans, bool pair) -> ()",
    "transpose(Tensor(a!) y, Tensor x) -> ()",
    # csrc/cuda/implicit_filter.h
    "filter_blocks(int count) -> int",
    "filter(Tensor(a!) k, Tensor z, Tensor freq, Tensor w_in, Tensor b_in, Tensor w_hidden, Tensor b_hidden, "
    "Tensor w_out, Tensor? t, Tensor? deltas, float shift) -> ()",
    "filter_sine(Tensor(a!) sine, Tensor linear, Tensor freq) -> ()",
    "filter_sine_backward(Tensor(a!) grad, Tensor(b!) sums, Tensor linear, Tensor freq) -> ()",
    "filter_window(Tensor(a!) dh, Tensor(b!)? decayed, Tensor dk, Tensor t, Tensor deltas, float shift) -> ()",
)

for _schema in SCHEMAS:
    _LIBRARY.define(_schema)

extension.load_libraries()

ops = torch.ops.hyena_kernels_ext

"""The backends, one folder each: ``torch``, ``triton``, ``cpp`` and ``cuda``, with one file for each op.

Each of these files has two functions, which the dispatcher calls by position::

    forward(inputs, *options) -> Tensor
    backward(dy, inputs, *options, needs) -> tuple[Tensor, ...]

- ``inputs`` holds the op's tensors by name: ``FftconvInputs`` or another class of
  :mod:`hyena_kernels.common.inputs`. The public function has checked their shapes and dtypes.
- ``options`` are what else the schema names: ``causal: bool`` for ``fftconv``, ``silu: bool`` for ``short_conv``,
  ``shift: float`` for ``implicit_filter``, three for ``linear_cross_entropy`` and for ``position_dropout``, nothing
  for the others.
- ``dy`` is the gradient of the result. ``implicit_filter`` calls it ``dk``.
- ``needs`` is a list of one bool for each field of ``inputs``: whether its gradient is needed. It is False for an input
  that is None.
- ``backward`` returns one gradient for each field of ``inputs``, in their order, as
  :func:`hyena_kernels.common.gradients.gradients_like` allocates them: contiguous, of the input's shape and dtype, or
  of length 0 where none is needed.

So the entry points are::

    fftconv          forward(inputs: FftconvInputs, causal: bool)
                     backward(dy, inputs: FftconvInputs, causal: bool, needs: list[bool])
    short_conv       forward(inputs: ShortConvInputs, silu: bool)
                     backward(dy, inputs: ShortConvInputs, silu: bool, needs: list[bool])
    implicit_filter  forward(inputs: ImplicitFilterInputs, shift: float)
                     backward(dk, inputs: ImplicitFilterInputs, shift: float, needs: list[bool])
    hyena_mixer      forward(inputs: MixerInputs)
                     backward(dy, inputs: MixerInputs, needs: list[bool])
    fftconv_varlen   forward(inputs: FftconvVarlenInputs)
                     backward(dy, inputs: FftconvVarlenInputs, needs: list[bool])
    mixer_varlen     forward(inputs: MixerVarlenInputs)
                     backward(dy, inputs: MixerVarlenInputs, needs: list[bool])
    far_field_conv   forward(inputs: FarFieldConvInputs)
                     backward(dy, inputs: FarFieldConvInputs, needs: list[bool])
    mixer_far        forward(inputs: FarMixerInputs)
                     backward(dy, inputs: FarMixerInputs, needs: list[bool])
    embedding        forward(inputs: EmbeddingInputs)
                     backward(dy, inputs: EmbeddingInputs, needs: list[bool])
    linear_cross_entropy
                     forward(inputs: LinearCrossEntropyInputs, ignore_index: int, label_smoothing: float,
                             every_position: bool)
                     backward(dy, inputs: LinearCrossEntropyInputs, ignore_index: int, label_smoothing: float,
                              every_position: bool, needs: list[bool])

The last two are on ``triton`` and ``torch`` alone. ``position_dropout`` is its own derivative, so it has one function::

    position_dropout forward(inputs: PositionDropoutInputs, p: float, seed: int, offset: int)

A backend without kernels for packed rows has those two ops by
:mod:`hyena_kernels.common.packed`, from its ``fftconv`` and ``mixer``.

A decoding step changes two of its inputs, ``short_state`` and ``u``, and has no derivative. If ``inputs.t`` is None,
``step`` is the number of the step::

    hyena_mixer_step forward(inputs: MixerStepInputs, step: int, window: int)

The ops themselves keep flat arguments. ``hyena_kernels.registration.library`` groups them before it calls a backend.
A ``supports`` function of :func:`hyena_kernels.backend.register` still takes the flat arguments of the op.

A backend imports no other backend. ``extension.py`` loads the compiled libraries that ``cpp`` and ``cuda`` share.
"""

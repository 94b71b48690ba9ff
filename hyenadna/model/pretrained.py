"""What the models share: initialisation, loading, saving, and the checks of ids and labels."""

# transformers declares its class attributes without ClassVar, and a subclass cannot add it.
# ruff: noqa: RUF012

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.checkpoint import checkpoint as recomputed
from transformers import GenerationConfig, PreTrainedModel, initialization as init

from hyena_kernels import HyenaFilter
from hyena_kernels.modules import SharesPositions
from hyenadna.common.errors import InputError, WeightsError
from hyenadna.common.files import atomic_dir
from hyenadna.model import adapters, checkpoint, gathering, locate
from hyenadna.model.arguments import check_length
from hyenadna.model.config import DNAConfig, HyenaDNAConfig
from hyenadna.model.layers import HyenaDNABackbone, HyenaDNABlock, HyenaDNAEmbeddings, Recomputation, directly

logger = logging.getLogger(__name__)

# Settings of generation that are numbers above 0.
_POSITIVE = ("temperature", "top_p", "num_beams", "max_length", "max_new_tokens", "repetition_penalty")


# Arguments of checkpointing that say nothing to a block in slices, or what it does anyway.
_OF_SLICES = {"determinism_check", "early_stop", "preserve_rng_state", "use_reentrant"}


class DNAPreTrainedModel(PreTrainedModel):
    """Loading and saving of all models here: strict, with errors of one line, and files that are whole."""

    config: DNAConfig
    # Heads that a checkpoint may lack. They get new weights.
    _new_heads: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a checkpoint of either published format, or one from the Hugging Face Hub.

        Args:
            pretrained_model_name_or_path: a folder with ``config.json`` and ``model.safetensors``, whole or in shards
                (``-hf``), or ``weights.ckpt`` (original); one of these weights files, with ``config.json`` beside it;
                an adapter of peft, which is applied to the checkpoint that it names; or the name of a repository on
                the Hub.
            model_args: as in transformers.
            kwargs: fields of ``HyenaDNAConfig`` to override, such as ``modulation_shift=0.0``, and the arguments of
                ``transformers.PreTrainedModel.from_pretrained``, such as ``dtype``, ``device_map`` and ``variant``.

        Returns:
            The model in ``eval()`` mode.

        Raises:
            InputError: there is no checkpoint; keys are missing, left over or of another shape (they are listed, and
                the error is a ``RuntimeError`` too); a file is damaged or would run code; the adapter does not fit;
                or ``max_seq_len`` or ``bidirectional`` is overridden, by name or in a ``config``.
            ImportError: an adapter is to be loaded, and peft is not installed.
        """
        path = pretrained_model_name_or_path
        if path is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(path, *model_args, **kwargs)
        if kwargs.get("gguf_file") is not None:
            raise InputError(f"{path}: gguf_file cannot be read; convert it to safetensors")
        base, adapter = adapters.split(path, kwargs)
        wanted = {key: kwargs.pop(key) for key in ("variant", "use_safetensors", "subfolder") if key in kwargs}
        source = locate.find(base, **wanted)
        if source is None:
            hub = {key: kwargs.pop(key) for key in checkpoint.HUB_ARGUMENTS if key in kwargs}
            source = checkpoint.download(str(base), **wanted, **hub)
        config, kwargs = _read_config(cls.config_class, source, kwargs)
        if hasattr(cls, "next_token_loss"):
            config.require_causal(str(base))
        with_info = kwargs.pop("output_loading_info", False)
        allow_mismatch = kwargs.pop("ignore_mismatched_sizes", False)
        weights = checkpoint.load_weights(source)
        if hasattr(cls, "next_token_loss") and any(key.startswith("score.") for key in weights):
            raise InputError(f"{base}: is fine-tuned and has no language head; use the model that it was tuned from")
        weights = cls._of_files(weights, config)
        if any(
            ".filter_fn." in key and tensor.is_floating_point() and tensor.itemsize < 4
            for key, tensor in weights.items()
        ):
            logger.warning(
                "%s: holds filters in 16 bits, which distort them; save weights in float32", source.weights_file
            )
        if mismatched := cls._mismatched(source, weights, config):
            allowed = {key for key, *_ in mismatched if allow_mismatch}
            _check_loaded(source, weights, set(), set(), [row for row in mismatched if row[0] not in allowed])
        with _without_load_report():
            loaded: Any = super().from_pretrained(
                None,
                *model_args,
                config=config,
                state_dict=weights,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        model, info = loaded
        new = {key for key in info["missing_keys"] if key.startswith(cls._new_heads)}
        _check_loaded(source, weights, set(info["missing_keys"]) - new, info["unexpected_keys"], ())
        model.config.name_or_path = model.name_or_path = str(base)
        if model.can_generate():
            model.generation_config = _generation_config(source, model)
        if adapter:
            with _without_load_report():
                info = adapters.apply(model, adapter)
            # A head that the adapter brings has another name now.
            new &= {name for name, _ in model.named_parameters()}
        if new:
            logger.warning("%s: new weights, to be trained before use: %s", path, checkpoint.listed(new))
        return (model, info) if with_info else model

    @classmethod
    def _of_files(cls, weights: dict[str, Tensor], config: DNAConfig) -> dict[str, Tensor]:
        """The weights of a file under the names that the model expects."""
        return weights

    @classmethod
    def _mismatched(
        cls, source: locate.Source, weights: Mapping[str, Tensor], config: DNAConfig
    ) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Key, shape in the checkpoint and shape in the model of every weight where the two differ.

        The shapes are compared before the model is made, so that a wrong size asks for no memory.

        Raises:
            WeightsError: the number of layers differs.
        """
        layers = {int(match[1]) for key in weights if (match := re.search(r"\.layers\.(\d+)\.", key))}
        if layers and max(layers) + 1 != config.n_layer:
            raise WeightsError(
                f"{source.config_file}: n_layer is {config.n_layer}, and {source.weights_file.name} holds "
                f"{max(layers) + 1} layers"
            )
        with torch.device("meta"):
            expected = {cls._bare(key): (key, tuple(tensor.shape)) for key, tensor in cls(config).state_dict().items()}
        shapes = {cls._bare(key): tuple(tensor.shape) for key, tensor in weights.items()}
        found = [(*expected[bare], shape) for bare, shape in shapes.items() if bare in expected]
        return [(key, shape, wanted) for key, wanted, shape in found if shape != wanted]

    @classmethod
    def _bare(cls, key: str) -> str:
        return key.removeprefix(f"{cls.base_model_prefix}.")

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` in the layout of the published ``-hf`` folders.

        Each file is whole: all are written beside ``save_directory`` first, and if that fails nothing there changes.
        Then they replace those of the same name one by one, so that a crash in between leaves new files among old
        ones. Weights that were there in other files, such as the shards of an earlier save, are removed; files of
        other kinds stay.

        With many processes:

        - Weights that are sharded, as by FSDP2: every process of the mesh has to call this, or those that do wait for
          the others until the timeout. The weights are gathered on the CPU of the first process with
          ``is_main_process``, which writes the same files as for a model in one piece. All return when the files are
          there, or raise.
        - All others, as of DistributedDataParallel: no process waits for another. Each that is called with
          ``is_main_process`` writes its own model. Several may write the same weights to one folder at once.

        Args:
            save_directory: the folder.
            is_main_process: False writes nothing.
            state_dict: weights in place of the model's own. If they are whole, no process waits for another.
            args: as in transformers.
            kwargs: as in transformers. ``push_to_hub`` and ``distributed_checkpoint`` write to the folder directly.

        Raises:
            InputError: the files cannot be written: a full disk, no permission. With sharded weights all processes
                raise it.
            RuntimeError: with sharded weights, the process that writes has failed in another way.
        """
        if kwargs.get("distributed_checkpoint"):
            first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
            super().save_pretrained(save_directory, is_main_process and first, state_dict, *args, **kwargs)
            return
        mesh = gathering.mesh_of(self.parameters() if state_dict is None else state_dict.values())
        if mesh is None:
            if is_main_process:
                self._write(save_directory, state_dict, *args, **kwargs)
            return
        wanted = gathering.everywhere(is_main_process, mesh)
        writer = next((rank for rank, writes in wanted.items() if writes), None)
        if writer is None:
            return
        own = torch.distributed.get_rank() == writer
        weights = gathering.gather(self, self.state_dict() if state_dict is None else state_dict, keep=own)
        failure: Exception | None = None
        if own:
            try:
                self._write(save_directory, weights, *args, **kwargs)
            except Exception as error:
                failure = error
        told = None if failure is None else (isinstance(failure, InputError), f"{failure}")
        problem = gathering.everywhere(told, mesh)[writer]
        if failure is not None:
            raise failure
        if problem is not None:
            is_input, text = problem
            raise InputError(text) if is_input else RuntimeError(f"{save_directory}: rank {writer} failed: {text}")

    def _write(
        self, save_directory: str | os.PathLike[str], state_dict: dict[str, Any] | None, *args: Any, **kwargs: Any
    ) -> None:
        """Write the files of :meth:`save_pretrained` from this process."""
        given = self._for_files(state_dict)
        given = None if given is None else checkpoint.positions_apart(given)
        with ExitStack() as stack:
            # transformers refuses tensors of shared memory. If weights are given, it reads none of the model's own.
            if given is None:
                for module in self.modules():
                    if isinstance(module, SharesPositions):
                        stack.enter_context(module.positions_apart())
            if kwargs.get("push_to_hub"):
                super().save_pretrained(save_directory, True, given, *args, **kwargs)
                return
            target = Path(save_directory)
            with atomic_dir(target, merge=True) as partial:
                super().save_pretrained(partial, True, given, *args, **kwargs)
                written = {file.name for file in partial.iterdir()}
            _remove_old_weights(target, written, kwargs.get("variant"))

    def _for_files(self, state_dict: dict[str, Any] | None) -> dict[str, Any] | None:
        """The weights that a file holds, if they are not those of ``state_dict`` or, for None, of the model."""
        return state_dict

    # Three decisions of transformers about processes, which save_pretrained above has made.

    def should_save_on_this_rank(self, is_main_process: bool) -> bool:
        """Whether this process writes."""
        return is_main_process

    def gather_sharded_state_dict_for_save(
        self, model_to_save: Any, state_dict: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """The weights to write, which are whole."""
        return state_dict

    def barrier_after_gathered_checkpoint_save(self, distributed_config: Any) -> None:
        """Nothing: processes wait for each other after the files are at their place."""

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. ``config.padded_vocab_size`` follows, so that the model can be saved and loaded."""
        made = super().resize_token_embeddings(*args, **kwargs)
        if made.weight.shape[0] != self.config.padded_vocab_size:
            self.config.vocab_size = made.weight.shape[0]
            self.config.pad_vocab_size_multiple = 1
        return made

    def _check_input(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, *, any_length: bool = False
    ) -> tuple[tuple[int, int], torch.device]:
        """Shape ``(B, L)`` and device of the input. With ``any_length``, L may be above ``max_seq_len``.

        Raises:
            InputError: not exactly one input is given, or the model cannot take it.
        """
        if input_ids is not None and inputs_embeds is None:
            self._check_ids(input_ids)
            given = input_ids
        elif inputs_embeds is not None and input_ids is None:
            if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != self.config.d_model:
                width = self.config.d_model
                raise InputError(f"inputs_embeds must be (B, L, {width}), got shape {tuple(inputs_embeds.shape)}")
            given = inputs_embeds
        else:
            raise InputError("give either input_ids or inputs_embeds, and not both")
        batch, length = given.shape[:2]
        if not any_length:
            check_length(length, self.config.longest_input)
        return (batch, length), given.device

    def _check_ids(self, input_ids: Tensor) -> None:
        if input_ids.dim() != 2 or input_ids.numel() == 0:
            raise InputError(f"input_ids must be (B, L) and not empty, got shape {tuple(input_ids.shape)}")
        if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
            raise InputError(f"input_ids must be integers, got {input_ids.dtype}")
        # On a GPU the embedding's device-side assert reports bad ids.
        if has_values(input_ids):
            least, most = (int(bound) for bound in torch.aminmax(input_ids))
            rows = self.config.padded_vocab_size
            if least < 0 or most >= rows:
                wrong = most if most >= rows else least
                raise InputError(f"input_ids hold the id {wrong}: the embedding has {rows} rows, ids 0 to {rows - 1}")


class HyenaDNAPreTrainedModel(DNAPreTrainedModel):
    """Initialisation, loading and saving, common to all HyenaDNA models."""

    config_class = HyenaDNAConfig
    config: HyenaDNAConfig
    base_model_prefix = "hyena"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HyenaDNABlock"]
    # 16 bits are too few for sines of frequency 10 and more over up to 1,000,000 positions.
    _keep_in_fp32_modules_strict = ["filter_fn"]
    _keys_to_ignore_on_load_missing = [r"filter_fn\.pos_emb\.[zt]$", r"filter_fn\.modulation\.deltas$"]

    if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):
        # The first releases of transformers 5 have only its older name.
        activation_checkpointing_enable = PreTrainedModel.gradient_checkpointing_enable  # type: ignore[assignment]

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = recomputed, *args: Any, **kwargs: Any
    ) -> None:
        """As the base class, which all ways of turning checkpointing on and off call.

        ``slices`` among the arguments of the function is ``"auto"``: blocks keep their input alone, and are computed in
        slices where they are long; or False: every block is given whole to ``torch.utils.checkpoint``. The default is
        ``"auto"``, but False where something else than that function is asked for, or code to run in it.

        Raises:
            InputError: ``slices`` is neither of these, or ``"auto"`` beside arguments that slices cannot honour.
        """
        function: Any = gradient_checkpointing_func
        options = dict(function.keywords) if isinstance(function, partial) else {}
        slices = options.pop("slices", None)
        if not (slices is None or slices is False or slices == "auto"):
            raise InputError(f'gradient checkpointing: slices must be "auto" or False, got {slices!r}')
        if isinstance(function, partial):
            if slices is not None:
                options.setdefault("use_reentrant", False)
            function = partial(function.func, *function.args, **options)
        can_slice = getattr(function, "func", function) is recomputed and options.keys() <= _OF_SLICES
        if slices == "auto" and not can_slice:
            others = ", ".join(sorted(options.keys() - _OF_SLICES)) or "another function, as of offload"
            raise InputError(f"gradient checkpointing: blocks in slices cannot honour {others}; set slices to False")
        super()._set_gradient_checkpointing(enable, function, *args, **kwargs)
        for block in self.modules():
            if isinstance(block, HyenaDNABlock):
                # Past nn.Module, which takes its attributes for modules or tensors.
                block.__dict__["_gradient_checkpointing_func"] = directly
                block.recomputation = Recomputation(
                    function, "preserve_rng_state" in options, can_slice and slices is not False
                )

    @property
    def embeddings(self) -> HyenaDNAEmbeddings:
        """The backbone's embeddings under the name that peft looks for. Otherwise it searches for vocab_size rows."""
        backbone: HyenaDNABackbone = self.base_model.backbone  # type: ignore[assignment]
        return backbone.embeddings

    def _init_weights(self, module: Any) -> None:
        """Initialise weights as the original does. transformers calls this for weights that were not loaded.

        Every Linear and the embedding get N(0, initializer_range) and zero bias. Layers that write into the residual
        are smaller by √(2 n_layer). The short convolution gets PyTorch's default, the skip N(0, 1), and the frequencies
        ``activation_freq``.
        """
        if isinstance(module, nn.Conv1d):
            module.reset_parameters()
            return
        super()._init_weights(module)
        if getattr(module, "adds_to_residual", False):
            std = self.config.initializer_range / math.sqrt(2 * self.config.n_layer)
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, HyenaFilter):
            init.normal_(module.bias)
        elif hasattr(module, "reset_buffers"):
            # from_pretrained makes modules on the meta device, so buffers that the checkpoint lacks are still empty.
            module.reset_buffers()
        elif hasattr(module, "freq"):
            init.constant_(module.freq, self.config.activation_freq)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """As the base class, and beside what ``tie_word_embeddings`` says.

        The sines of one filter share their frequency, and the layers of a model the features of the positions.
        """
        super().tie_weights(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, HyenaFilter):
                module.implicit_filter.share_freq()
            elif isinstance(module, SharesPositions):
                module.share_positions()

    @classmethod
    def _of_files(cls, weights: dict[str, Tensor], config: DNAConfig) -> dict[str, Tensor]:
        assert isinstance(config, HyenaDNAConfig)
        return _as_loaded(weights, config)


def _stored_config(kind: Any, source: locate.Source) -> Any:
    """The stored configuration, of the class ``kind``."""
    content = locate.read_json(source.config_file)
    read: Any = HyenaDNAConfig.from_original if source.format == "original" else kind.from_dict
    try:
        made = read(content)
    except InputError as error:
        text = str(error).removeprefix("config: ").removeprefix("config.json: ")
        raise InputError(f"{source.config_file}: {text}") from error
    return made


def _generation_config(source: locate.Source, model: Any) -> Any:
    """The checkpoint's own settings of ``generate``, or those that follow from its configuration.

    Raises:
        InputError: the file is damaged, or holds impossible values.
    """
    file = source.config_file.with_name("generation_config.json")
    if not file.exists():
        return model.generation_config
    content = locate.read_json(file)
    most = model.config.padded_vocab_size - 1
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        ids = content.get(name)
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and not (type(token) is int and 0 <= token <= most):
                raise InputError(f"{file}: {name} must be an id from 0 to {most}, got {token!r}")
    for name in _POSITIVE:
        value = content.get(name)
        if value is not None and not (type(value) in (int, float) and value > 0):
            raise InputError(f"{file}: {name} must be a number above 0, got {value!r}")
    try:
        settings = GenerationConfig.from_pretrained(file.parent)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from error
    # Folders that were saved before there was a cache say False.
    settings.use_cache = True
    return settings


def _remove_old_weights(folder: Path, written: set[str], variant: str | None) -> None:
    """Remove the weights of an earlier save that ``written`` does not replace: a whole file, shards and their list."""
    names = locate.weights_names(variant)
    if not written.intersection(names):
        return
    whole = [re.escape(name).replace(r"\.", r"(-\d{5}-of-\d{5})?\.", 1) for name in names[::2]]
    old = re.compile("|".join([*whole, *map(re.escape, names[1::2])]))
    for file in folder.iterdir():
        if old.fullmatch(file.name) and file.name not in written:
            # Another process that saves the same model may have removed it.
            file.unlink(missing_ok=True)


def _check_length(source: locate.Source, stored: Any, length: Any) -> None:
    """Raise InputError unless ``length`` is the checkpoint's own ``max_seq_len``."""
    if length != stored.max_seq_len:
        raise InputError(
            f"{source.config_file.parent}: max_seq_len is {stored.max_seq_len} and cannot be {length}: the filters are "
            "made for one length, and these weights belong to it; load a checkpoint made for longer sequences"
        )


def has_values(ids: Tensor) -> bool:
    """Whether the values of a tensor can be read now, and at no cost.

    They cannot while a graph is traced, under vmap and in a FakeTensor. On a GPU reading waits for all queued work.
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (torch._C._functorch.is_functorch_wrapped_tensor(ids) or is_fake(ids) or get_proxy_mode() is not None)


def check_labels(labels: Tensor, columns: int) -> None:
    """Raise InputError if a label is neither a column of the logits nor -100, which the loss ignores."""
    if has_values(labels):
        wrong = labels[(labels != -100) & ((labels < 0) | (labels >= columns))]
        if wrong.numel():
            raise InputError(
                f"labels hold the id {int(wrong[0])}: the logits have {columns} columns, ids 0 to {columns - 1}, and "
                "-100 leaves a position out"
            )


def _read_config(kind: Any, source: locate.Source, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The configuration of the model, of the class ``kind``, and those of ``kwargs`` that do not belong to it.

    It is the one among ``kwargs``, or the stored one with the overrides among ``kwargs``.
    """
    given = kwargs.pop("config", None)
    stored = _stored_config(kind, source)
    if isinstance(given, kind):
        # From transformers' Auto classes. Their overrides are already in it.
        _check_length(source, stored, given.max_seq_len)
        _check_directions(source, stored, vars(given))
        given.check()
        return given, kwargs
    if given is not None:
        raise InputError(f"config must be a {kind.__name__}, got {type(given).__name__}")
    _check_length(source, stored, kwargs.get("max_seq_len", stored.max_seq_len))
    _check_directions(source, stored, kwargs)
    # The dtype is an argument of the model. A configuration cannot hold "auto".
    dtypes = {key: kwargs.pop(key) for key in ("dtype", "torch_dtype") if key in kwargs}
    config, unused = kind.from_dict(stored.to_dict(), return_unused_kwargs=True, **kwargs)
    return config, unused | dtypes


def _check_directions(source: locate.Source, stored: Any, fields: Mapping[str, Any]) -> None:
    """Raise InputError if weights were trained for another kind of operator. Shapes alone do not tell."""
    if not isinstance(stored, HyenaDNAConfig):
        return
    bidirectional = fields.get("bidirectional", stored.bidirectional)
    if bidirectional != stored.bidirectional:
        raise InputError(
            f"{source.config_file}: bidirectional is {stored.bidirectional!r} and cannot be {bidirectional!r}: the "
            "weights are those of another operator; train a new model"
        )


def _as_loaded(weights: dict[str, Tensor], config: HyenaDNAConfig) -> dict[str, Tensor]:
    """The weights as transformers expects them: a frequency for every sine, and no tied head.

    Raises:
        InputError: ``tie_word_embeddings`` is True and the head differs from the embedding.
    """
    weights = checkpoint.repeat_freq(weights, config.num_inner_mlps)
    if config.tie_word_embeddings:
        head, embedding = weights.pop(checkpoint.HEAD_KEY, None), weights.get(checkpoint.EMBEDDING_KEY)
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            raise InputError("tie_word_embeddings is true, but the checkpoint's head differs from its embedding")
    return weights


def _check_loaded(
    source: locate.Source, weights: dict[str, Tensor], missing: set[str], unexpected: set[str], mismatched: Any
) -> None:
    """Raise WeightsError unless the checkpoint had exactly the keys of the model, in the right shapes."""
    if not (missing or unexpected or mismatched):
        return
    problems = []
    if mismatched:
        key, found, expected = sorted(mismatched)[0]
        more = f" (and {len(mismatched) - 1} more keys differ)" if len(mismatched) > 1 else ""
        problems.append(f"{key} has shape {tuple(found)} where the configuration asks for {tuple(expected)}{more}")
    if missing:
        problems.append(f"{len(missing)} keys are missing: {checkpoint.listed(missing)}")
    if unexpected:
        problems.append(f"{len(unexpected)} keys are unexpected: {checkpoint.listed(unexpected)}")
    size = checkpoint.published_size({key: tensor.shape for key, tensor in weights.items()})
    hint = f"; the weights have the size of {size}" if size else ""
    raise WeightsError(f"{source.weights_file} does not fit {source.config_file.name}: {'; '.join(problems)}{hint}")


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Hide transformers' table of missing and unexpected keys. Our own error has them in one line.

    The table of weights that were made anew, because the caller allowed other shapes, is shown.
    """

    def is_other(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "LOAD REPORT" not in message or "MISMATCH" in message

    theirs = logging.getLogger("transformers.modeling_utils")
    theirs.addFilter(is_other)
    try:
        yield
    finally:
        theirs.removeFilter(is_other)

"""Measures the facts of a model for the memory estimate, on the meta device and from config.json alone."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from finetune_trainer.config import Method
from finetune_trainer.data.shards import Split
from finetune_trainer.models import methods
from finetune_trainer.models.cross_entropy import CHUNK_BYTES
from finetune_trainer.models.memory import PERSISTENT, Activations, ModelFacts
from finetune_trainer.models.quantized_layers import list_quantized_layers
from finetune_trainer.models.trial import build_without_files, format_error
from finetune_trainer.models.vocabulary import reserve_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

Forward = Callable[[torch.nn.Module, Split], Any]
"""Runs the forward pass of the task on the rows, on the device of the model."""


def find_facts(
    folder: Path,
    auto: str,
    head: Callable[["PreTrainedModel"], tuple[str, ...]],
    method: Method,
    dtype: torch.dtype,
    forward: Forward,
    length: int,
) -> ModelFacts:
    """Builds a model on the meta device, applies the method, and measures the model.

    Args:
        folder: folder with config.json.
        auto: class of transformers, such as AutoModelForCausalLM.
        head: returns the names of the new modules of the task.
        method: training method.
        dtype: data type of the weights.
        forward: the forward pass of the task.
        length: tokens of a row, at least 2.

    Raises:
        StageFailure: UserConfig: ModelUnsupported, TargetModulesUnknown, TooManyLayers.
    """
    base = build_without_files(folder, auto, dtype)
    base_parameters = _count(base)
    reserve_rows(base, method)
    sizes = base.config.get_text_config()
    outputs = base.get_output_embeddings()
    layers = methods.find_layers(base)
    model = methods.apply_method(method, base, head(base), seed=0)
    weights = list(model.parameters())
    trained = [weight.numel() for weight in weights if weight.requires_grad]
    quantized = [layer.get_base_layer().weight.numel() for layer in list_quantized_layers(method, model)]
    return ModelFacts(
        base_parameters=base_parameters,
        parameters=_count(model),
        trained=sum(trained),
        small=sum(weight.numel() for weight in weights if weight.numel() < PERSISTENT),
        embeddings=_count(base.get_input_embeddings()),
        largest_layer=max(map(_count, layers), default=0),
        largest_tensor=max(weight.numel() for weight in weights),
        largest_trained=max(trained),
        quantized=sum(quantized),
        largest_quantized=max(quantized, default=0),
        hidden=sizes.hidden_size,
        layers=sizes.num_hidden_layers,
        vocabulary=sizes.vocab_size,
        kv_heads=getattr(sizes, "num_key_value_heads", None) or sizes.num_attention_heads,
        outputs=0 if outputs is None else outputs.weight.shape[0],
        can_checkpoint=bool(base.supports_gradient_checkpointing),
        logits_chunk=CHUNK_BYTES,
        activations=measure_activations(model, forward, length),
    )


def measure_activations(model: torch.nn.Module, forward: Forward, length: int) -> Activations | None:
    """Measures the bytes that a forward pass saves for the backward pass, without running the model.

    The forward pass runs with one row of `length / 2` tokens and with one row of `length` tokens, and the
    bytes are solved for a share of each token and a share of each pair of tokens.

    Args:
        model: the model on the meta device.
        forward: the forward pass of the task.
        length: tokens of a row, at least 2.

    Returns:
        None if the model cannot run on the meta device, for example because the operations depend on values.
    """
    half = length // 2
    try:
        few, many = (count_saved_bytes(model, forward, tokens) for tokens in (half, length))
    except Exception as error:  # noqa: BLE001 - models raise arbitrary exceptions
        log.warning(
            "the activations are unknown: the model cannot run without values: %s", format_error(error)
        )
        return None
    pair = max(0.0, (many / length - few / half) / (length - half))
    return Activations(token=many / length - pair * length, pair=pair)


def count_saved_bytes(model: torch.nn.Module, forward: Forward, length: int) -> int:
    """Counts the bytes that a forward pass of one row saves for the backward pass, without parameters.

    Args:
        model: the model, on the meta device or on another one.
        forward: the forward pass of the task.
        length: tokens of the row.
    """
    # The address of a storage on the meta device is 0; the handle is unique while the storage exists.
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}  # noqa: SLF001
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:  # noqa: SLF001
            saved[storage._cdata] = storage  # noqa: SLF001
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _OnMeta():
        outputs = forward(model, _build_row(length))
    del outputs
    return sum(storage.nbytes() for storage in saved.values())


class _OnMeta(TorchFunctionMode):
    """Replaces operations for which the meta device behaves unlike a GPU.

    Attention is computed by a fused kernel, which saves the logarithm of a sum for each token instead of all
    pairs. Conditions on values have the answer of one row without padding: yes, all tokens belong together.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True
        if func is scaled_dot_product_attention and args[0].is_meta:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - fused kernels save the seed of dropout, not the mask
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001 - the kernel accepts fewer heads of keys and values
) -> torch.Tensor:
    """The arguments of scaled_dot_product_attention; the kernel for CPUs has no dropout."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
    output: torch.Tensor = kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return output


def _build_row(length: int) -> Split:
    return Split(
        tokens=np.ones(length, dtype=np.int32),
        offsets=np.array([0, length], dtype=np.int64),
        labels=np.zeros(1, dtype=np.int32),
        rows=np.ones(1, dtype=np.int64),
        loss_mask=np.ones(length, dtype=np.bool_),
    )


def _count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())

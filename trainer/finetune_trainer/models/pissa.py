"""Initialises LoRA with the principal components of the weights (PiSSA, arXiv 2404.02948).

PiSSA trains the principal components B A of a weight W, and freezes the rest of W. The published adapter must
load onto the unchanged base model, so this module does not change W. Instead, the adapter has twice the rank:
its first half is trained, and its second half is the initial value with the opposite sign. The weight
W + scale * (B A - B0 A0) equals the (W - scale * B0 A0) + scale * B A of PiSSA, without rounding W.
"""

from typing import Any

import torch

from finetune_trainer.models.weights import full_shape, whole_parameters

_ITERATIONS = 4
"""Subspace iterations of the randomised singular value decomposition, as `pissa_niter_4` of PEFT."""


def initialize(layer: Any) -> None:
    """Initialises the adapter of a linear layer; the outputs stay those of the base model.

    The second half of the matrices gets no gradient. Weight decay changes both halves alike, so that weight
    decay reduces the difference to the base model, as without PiSSA.

    Args:
        layer: LoRA layer of PEFT with an even rank. The weight can be sharded (ZeRO-3). On the meta device,
            which has no values, the matrices keep their values.
    """
    weight = layer.get_base_layer().weight
    low, high = layer.lora_A.default.weight, layer.lora_B.default.weight
    half = low.shape[0] // 2
    if not weight.is_meta:
        with whole_parameters([weight]), torch.no_grad():
            matrix = weight.float().T if layer.fan_in_fan_out else weight.float()
            components = min(half, *full_shape(weight))
            left, values, right = torch.svd_lowrank(matrix, components, _ITERATIONS)
            roots = (values / layer.scaling["default"]).sqrt()
            low.zero_()
            high.zero_()
            for start, sign in ((0, 1), (half, -1)):
                low[start : start + components] = (right * roots).T
                high[:, start : start + components] = sign * left * roots
    low.register_hook(lambda gradient: _keep(gradient, slice(half)))
    high.register_hook(lambda gradient: _keep(gradient, (slice(None), slice(half))))


def _keep(gradient: torch.Tensor, part: Any) -> torch.Tensor:
    """Returns the gradient with zeros outside a part."""
    kept = torch.zeros_like(gradient)
    kept[part] = gradient[part]
    return kept

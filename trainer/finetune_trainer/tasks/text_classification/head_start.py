"""Initialises a new classification head with a linear probe of the frozen base model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from finetune_trainer.models.logistic_regression import LinearClassifier
from finetune_trainer.models.weights import whole_parameters


@contextmanager
def bypass_layer(model: torch.nn.Module, layer: str) -> Iterator[None]:
    """Replaces a linear layer by the identity within the context, so that the logits are the layer's inputs.

    A hook would not suffice: a decoder applies its last layer to every token, and then selects the last
    token.

    Args:
        model: the classifier.
        layer: name of the last linear layer.
    """
    linear = model.get_submodule(layer)
    model.set_submodule(layer, torch.nn.Identity())
    try:
        yield
    finally:
        model.set_submodule(layer, linear)


def build_head_weights(
    model: torch.nn.Module, head: Sequence[str], layer: str, classifier: LinearClassifier
) -> dict[str, torch.Tensor]:
    """Returns the parameters of the head by name, on the CPU; a collective call for a sharded model (ZeRO-3).

    Args:
        model: the classifier.
        head: names of the modules of the head.
        layer: name of the last linear layer.
        classifier: the linear probe, whose weights replace the weights of this layer.
    """
    probe = {f"{layer}.weight": classifier.weight, f"{layer}.bias": classifier.bias}
    weights = {}
    for name, weight in model.named_parameters():
        if any(name.startswith(f"{own}.") for own in head):
            with whole_parameters([weight]):
                weights[name] = probe.get(name, weight).detach().to("cpu", weight.dtype, copy=True)
    return weights

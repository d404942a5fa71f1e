"""Initialises a new classification head with a linear probe of the frozen base model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from finetune_trainer.models.logistic_regression import LinearClassifier


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


def copy_into_layer(classifier: LinearClassifier, layer: torch.nn.Linear) -> None:
    """Copies a linear probe to a layer, in the precision of the layer."""
    with torch.no_grad():
        layer.weight.copy_(classifier.weight)
        if layer.bias is not None:
            layer.bias.copy_(classifier.bias)


def copy_head_weights(model: torch.nn.Module, head: Sequence[str]) -> dict[str, torch.Tensor]:
    """Copies every parameter of the modules `head` to the CPU, by name."""
    return {
        name: weight.detach().cpu().clone()
        for name, weight in model.named_parameters()
        if any(name.startswith(f"{own}.") for own in head)
    }

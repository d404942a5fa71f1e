"""How a new classification head starts: as a linear probe of the frozen base model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from finetune_trainer.models.logistic_regression import Linear


@contextmanager
def without(model: torch.nn.Module, layer: str) -> Iterator[None]:
    """The model without its last linear layer: its logits are then the input of this layer for each row.

    A decoder applies its last layer to every token and selects the logits of the last token; a hook on the
    layer would see every token.
    """
    linear = model.get_submodule(layer)
    model.set_submodule(layer, torch.nn.Identity())
    try:
        yield
    finally:
        model.set_submodule(layer, linear)


def put(classifier: Linear, layer: torch.nn.Linear) -> None:
    """Copies a linear probe into a layer, in the layer's precision."""
    with torch.no_grad():
        layer.weight.copy_(classifier.weight)
        if layer.bias is not None:
            layer.bias.copy_(classifier.bias)


def weights_of(model: torch.nn.Module, head: Sequence[str]) -> dict[str, torch.Tensor]:
    """Every parameter of the modules `head` by name, copies on the CPU."""
    return {
        name: weight.detach().cpu().clone()
        for name, weight in model.named_parameters()
        if any(name.startswith(f"{own}.") for own in head)
    }

"""Adds rows for new tokens to the token embeddings and the output layer of a model."""

from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.config import Lora, Method
from finetune_trainer.models.weights import full_shape, whole_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def grow_vocabulary(model: "PreTrainedModel", rows: int) -> None:
    """Adds rows without useful values, up to `rows` rows, and updates the config of the model.

    A collective call for sharded parameters (ZeRO-3). The grown parameters are whole until a DeepSpeed engine
    shards them.
    """
    if rows > _count_rows(model):
        model.resize_token_embeddings(rows, mean_resizing=False)


def add_rows(model: "PreTrainedModel", new_ids: range) -> None:
    """Sets the rows of new tokens to the mean of the rows of all earlier tokens, and adds missing rows.

    With n earlier tokens, every new row is (x_1 + ... + x_n) / n, in the token embeddings and in the output
    layer with its bias. With k new tokens, the probability of an earlier token is then divided by at most
    1 + k / n (J. Hewitt, Initializing New Word Embeddings for Pretrained Language Models, 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html). transformers adds random noise to the mean; this
    function adds none.

    A collective call for sharded parameters (ZeRO-3).

    Args:
        model: the base model. Spare rows, which many models have beyond the vocabulary, are used first.
        new_ids: ids of the new tokens, which follow the ids of all earlier tokens. No change if empty.
    """
    if not new_ids:
        return
    grow_vocabulary(model, new_ids.stop)
    for weight in _list_weights(model):
        with whole_parameters([weight], change=True), torch.no_grad():
            earlier = weight[: new_ids.start].mean(dim=0, dtype=torch.float32)
            weight[new_ids.start : new_ids.stop] = earlier.to(weight.dtype)


def reserve_rows(model: "PreTrainedModel", method: Method) -> None:
    """Adds a row for each token that a job adds, to a model on the meta device.

    This is the largest possible number of rows: neither the tokenizer nor the spare rows are known.

    Args:
        model: the base model.
        method: training method of the run.
    """
    if isinstance(method, Lora):
        rows = _count_rows(model)
        add_rows(model, range(rows, rows + len(method.added_tokens)))


def _count_rows(model: "PreTrainedModel") -> int:
    inputs: Any = model.get_input_embeddings()
    return full_shape(inputs.weight)[0]


def _list_weights(model: "PreTrainedModel") -> list[torch.nn.Parameter]:
    """Returns the parameters of the token embeddings and of the output layer, tied parameters once."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    weights = [weight for module in both if module is not None for weight in module.parameters()]
    return list({id(weight): weight for weight in weights}.values())

"""Generates greedy continuations of prompts, in batches where the model ignores left padding."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from finetune_trainer.models.weights import full_shape, is_sharded
from finetune_trainer.tasks.text_generation.collate import Ids
from finetune_trainer.tasks.text_generation.language_model import differ_by_rounding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

BATCH_TOKENS = 8192
"""Maximum number of tokens of a batch, with padding and new tokens. A single longer prompt is a batch."""
BATCH_SECONDS = 300.0
"""Maximum time of a batch. At ZeRO-3, each token gathers all parameters, which takes seconds for a large
model on a slow network."""
_TEST_LENGTHS = (7, 5)
"""Number of tokens of each prompt of the padding test."""
_TEST_TOKENS = 2
"""Number of new tokens of the padding test: the second token is computed with the cache of the first."""


def generate(
    model: Any,
    prompts: Sequence[Ids],
    ends: Sequence[int],
    pad_id: int,
    most: int,
    seconds: float = BATCH_SECONDS,
) -> list[Ids]:
    """Generates a greedy continuation of each prompt. A collective call for sharded models (ZeRO-3).

    Args:
        model: the language model.
        prompts: token ids of each prompt; at ZeRO-3 the same on every rank.
        ends: ids of the tokens that end a continuation.
        pad_id: id of the padding token.
        most: maximum number of new tokens.
        seconds: time after which no further tokens of a batch are generated.

    Returns:
        Token ids of each continuation, with the token that ends the continuation.
    """
    from transformers import GenerationConfig  # noqa: PLC0415 - heavy

    how = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=most,
        max_time=seconds,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=pad_id,
        use_cache=True,
    )
    together = len(prompts) > 1 and _all_ranks(model, supports_left_padding(model))
    batches = list_batches([len(prompt) + most for prompt in prompts], BATCH_TOKENS if together else 0)
    found: dict[int, Ids] = {}
    for batch in batches:
        inputs = pad_left([prompts[number] for number in batch], pad_id, model.device)
        with torch.no_grad():
            whole = model.generate(**inputs, generation_config=how)
        new = whole[:, inputs["input_ids"].shape[1] :].cpu().numpy()
        found |= {number: _cut(ids, ends) for number, ids in zip(batch, new, strict=True)}
    return [found[number] for number in range(len(prompts))]


def list_batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yields the numbers of the prompts of each batch, the longest prompts first.

    Args:
        lengths: number of tokens of each prompt and its continuation.
        most: maximum number of tokens of a batch with padding. A longer prompt is a batch of its own.
    """
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def pad_left(prompts: Sequence[Ids], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Pads prompts on the left to the length of the longest prompt.

    Args:
        prompts: token ids of each prompt.
        pad_id: id of the padding token.
        device: device of the result.

    Returns:
        `input_ids` and `attention_mask`, int64, shape [prompts, longest].
    """
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    tensors = {"input_ids": ids, "attention_mask": mask}
    return {name: torch.from_numpy(values).to(device) for name, values in tensors.items()}


def supports_left_padding(model: "PreTrainedModel") -> bool:
    """Tests whether generation with left-padded prompts gives the logits of generation without padding.

    Models with a recurrent state that transformers does not mask, such as RWKV, do not support left padding.

    Args:
        model: the language model.
    """
    random = np.random.default_rng(0)
    embeddings: Any = model.get_input_embeddings()
    vocabulary = full_shape(embeddings.weight)[0]
    prompts = [random.integers(0, vocabulary, count) for count in _TEST_LENGTHS]
    padded = pad_left(prompts, 0, model.device)
    alone = _compute_logits(model, pad_left(prompts[1:], 0, model.device))
    try:
        together = _compute_logits(model, padded)
    except (TypeError, ValueError, RuntimeError) as error:
        log.info("texts are generated one by one: %s", error)
        return False

    mixed = None
    if model.dtype != torch.float32:
        visible = torch.ones_like(padded["attention_mask"])
        mixed = _compute_logits(model, {**padded, "attention_mask": visible})
    # After a different token, the logits of the second token cannot be compared.
    compared = [0, 1] if together[0].argmax() == alone[0].argmax() else [0]
    supported = all(
        differ_by_rounding(together[token], alone[token], None if mixed is None else mixed[0])
        for token in compared
    )
    if not supported:
        log.info("texts are generated one by one: the model does not ignore left padding")
    return supported


def _compute_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Computes the logits of the first new tokens of the last row, float32, shape [tokens, vocabulary]."""
    from transformers import GenerationConfig  # noqa: PLC0415 - heavy

    how = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=_TEST_TOKENS,
        min_new_tokens=_TEST_TOKENS,
        do_sample=False,
        pad_token_id=0,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with torch.no_grad():
        steps = model.generate(**inputs, generation_config=how).logits
    return torch.stack([logits[-1].float() for logits in steps])


def _all_ranks(model: Any, supported: bool) -> bool:
    """Returns whether the value is true on all ranks of a sharded model, which run the same forward passes.

    Rounding may make ranks on different machines decide differently.
    """
    if not is_sharded(model):
        return supported
    value = torch.tensor(int(supported), device=model.device)
    dist.all_reduce(value, dist.ReduceOp.MIN)
    return bool(value)


def _cut(ids: Ids, ends: Sequence[int]) -> Ids:
    """Removes the padding after the token that ends a continuation."""
    places = np.flatnonzero(np.isin(ids, list(ends)))
    return ids[: places[0] + 1] if len(places) else ids

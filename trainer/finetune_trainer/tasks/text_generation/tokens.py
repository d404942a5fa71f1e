"""Computes tokens and loss masks of the rows of text generation. No torch.

Every row begins once with the start tokens of the tokenizer (BOS or none). The last text with loss ends with
an EOS token that has loss, so that the model learns to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.config import TrainOn
from finetune_trainer.contract import FailureClass
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.tokenise import tokenize
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_generation.chat import (
    RenderedConversation,
    get_chat_template,
    render_conversation,
)
from finetune_trainer.tasks.text_generation.rows import Passage

_BATCH_ROWS = 512
Ids = list[int]


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a text."""

    start: tuple[int, ...]
    """Tokens that the tokenizer adds before every text, often BOS."""
    eos: int


def find_special_tokens(tokenizer: Any) -> SpecialTokens:
    """Returns the special tokens of a tokenizer.

    Raises:
        StageFailure: EosMissing.
    """
    if tokenizer.eos_token_id is None:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "EosMissing",
            "The model's tokenizer has no end-of-sequence token, so that what it writes would never end.",
            "Name it as eos_token in tokenizer_config.json.",
        )
    eos = int(tokenizer.eos_token_id)
    text = "a"
    bare = tokenize(tokenizer, text, add_special_tokens=False)["input_ids"]
    whole = tokenize(tokenizer, text, add_special_tokens=True)["input_ids"]
    start = whole[: next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)]
    return SpecialTokens(tuple(start), eos)


def encode_rows(tokenizer: Any, rows: Sequence[Passage], train_on: TrainOn) -> list[Encoding]:
    """Tokenizes rows without truncation. A row that the chat template refuses gets a fault.

    Args:
        tokenizer: the tokenizer of the model.
        rows: the rows.
        train_on: the tokens that have loss.

    Raises:
        StageFailure: EosMissing, ChatTemplateMissing, ChatTemplateUnusable.
    """
    special_tokens = find_special_tokens(tokenizer)
    found: list[Encoding] = []
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = rows[start : start + _BATCH_ROWS]
        chats = iter(
            _encode_conversations(tokenizer, special_tokens, [row for row in batch if row.messages], train_on)
        )
        texts = iter(
            _encode_texts(tokenizer, special_tokens, [row for row in batch if not row.messages], train_on)
        )
        found += [next(chats if row.messages else texts) for row in batch]
    return found


def truncate_row(
    special_tokens: SpecialTokens, row: Encoding, max_length: int, *, keeps_end: bool
) -> Encoding:
    """Truncates a row to `max_length` tokens.

    With `keeps_end`, the start of the prompt is truncated first, down to half of the row, and then the end of
    the row. Otherwise the end of the row is truncated.

    Args:
        special_tokens: the special tokens; start tokens remain.
        row: the encoding of the row.
        max_length: maximum number of tokens.
        keeps_end: whether to truncate the prompt first.
    """
    if len(row.ids) <= max_length or row.loss_mask is None:
        return row
    if not keeps_end or not row.loss_mask.any():
        return replace(
            _build_encoding(row.ids[:max_length], row.loss_mask[:max_length]), untrained=row.untrained
        )
    head, first = len(special_tokens.start), int(row.loss_mask.argmax())
    room = max_length - head
    kept = max(room - (len(row.ids) - first), min(first - head, room // 2))
    indices = np.r_[0:head, first - kept : first + room - kept]
    return replace(_build_encoding(row.ids[indices], row.loss_mask[indices]), untrained=row.untrained)


def _encode_texts(
    tokenizer: Any, special_tokens: SpecialTokens, rows: Sequence[Passage], train_on: TrainOn
) -> list[Encoding]:
    """Tokenizes prompts with completions, and raw texts, which have an empty prompt.

    The prompt has the same tokens as the prompt without completion, because inference uses these tokens.
    """
    prompts = _tokenize_texts(tokenizer, [row.prompt for row in rows])
    full_ids = _tokenize_texts(tokenizer, [row.prompt + row.completion for row in rows])
    are_prefixes = [whole[: len(prompt)] == prompt for prompt, whole in zip(prompts, full_ids, strict=True)]
    completions = iter(
        _tokenize_texts(
            tokenizer,
            [row.completion for row, is_prefix in zip(rows, are_prefixes, strict=True) if not is_prefix],
        )
    )
    found = []
    for prompt, whole, is_prefix in zip(prompts, full_ids, are_prefixes, strict=True):
        completion = whole[len(prompt) :] if is_prefix else next(completions)
        prompt_ids = _add_start_tokens(special_tokens, prompt) if prompt else list(special_tokens.start)
        ids = prompt_ids + completion if prompt else _add_start_tokens(special_tokens, completion)
        ids = [*ids, *([] if ids[-1] == special_tokens.eos else [special_tokens.eos])]
        loss_mask = np.ones(len(ids), dtype=np.bool_)
        loss_mask[: len(prompt_ids) if train_on == "Completion" else len(special_tokens.start)] = False
        found.append(_build_encoding(np.array(ids, dtype=np.int32), loss_mask))
    return found


def _encode_conversations(
    tokenizer: Any, special_tokens: SpecialTokens, rows: Sequence[Passage], train_on: TrainOn
) -> list[Encoding]:
    if not rows:
        return []
    template = get_chat_template(tokenizer, rows[0])
    chats = [render_conversation(tokenizer, template, row) for row in rows]
    usable = [chat for chat in chats if isinstance(chat, RenderedConversation)]
    tokens = iter(_tokenize_with_offsets(tokenizer, [chat.text for chat in usable]))
    return [
        _encode_conversation(special_tokens, row, chat, *next(tokens), train_on)
        if isinstance(chat, RenderedConversation)
        else Encoding(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.bool_), fault=chat)
        for row, chat in zip(rows, chats, strict=True)
    ]


def _encode_conversation(
    special_tokens: SpecialTokens,
    row: Passage,
    chat: RenderedConversation,
    ids: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    train_on: TrainOn,
) -> Encoding:
    """Builds tokens and loss mask of a conversation, truncated after the last token with loss.

    A message with loss ends with the EOS token of the template. If the template does not end the last message
    with EOS, EOS is appended.
    """
    spoken = [message for message in row.messages if message.role == "assistant"]
    unknown = [message for message, span in zip(spoken, chat.spans, strict=True) if span is None]
    # Loss on all tokens is impossible if a message with weight 0 cannot be located.
    everything = train_on == "All" and all(message.weight for message in unknown)
    loss_mask = np.full(len(ids), everything)
    end = 0
    for message, span in zip(spoken, chat.spans, strict=True):
        if span is not None:
            tokens = _find_tokens(ids, offsets, span, special_tokens.eos)
            loss_mask[tokens] = bool(message.weight)
            end = tokens.stop if message.weight else end
    ended = end > 0 and ids[end - 1] == special_tokens.eos
    if end and (train_on == "Completion" or not ended):
        ids, loss_mask = ids[:end], loss_mask[:end]
    if end and not ended:
        ids, loss_mask = np.append(ids, np.int32(special_tokens.eos)), np.append(loss_mask, np.True_)
    duplicate_start = int(len(special_tokens.start) > 0 and ids[:2].tolist() == [special_tokens.start[0]] * 2)
    untrained = 0 if everything else sum(bool(message.weight) for message in unknown)
    return replace(_build_encoding(ids[duplicate_start:], loss_mask[duplicate_start:]), untrained=untrained)


def _find_tokens(
    ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], span: tuple[int, int], eos: int
) -> slice:
    """Returns the tokens that start within a span, up to the last EOS in or directly after the span."""
    inside = np.flatnonzero(
        (offsets[:, 0] >= span[0]) & (offsets[:, 0] < span[1]) & (offsets[:, 1] > offsets[:, 0])
    )
    if not len(inside):
        return slice(0, 0)
    start, end = int(inside[0]), int(inside[-1]) + 1
    ends = np.flatnonzero(ids[start : end + 1] == eos)
    return slice(start, start + int(ends[-1]) + 1 if len(ends) else end)


def _build_encoding(ids: npt.NDArray[np.int32], loss_mask: npt.NDArray[np.bool_]) -> Encoding:
    """Builds an encoding. The first token has no loss, because no token precedes the first token."""
    loss_mask[:1] = False
    return Encoding(ids, loss_mask)


def _add_start_tokens(special_tokens: SpecialTokens, ids: Ids) -> Ids:
    """Adds the start tokens unless the text already begins with the start tokens."""
    return (
        ids
        if special_tokens.start and ids[: len(special_tokens.start)] == list(special_tokens.start)
        else [*special_tokens.start, *ids]
    )


def _tokenize_texts(tokenizer: Any, texts: list[str]) -> list[Ids]:
    if not texts:
        return []
    found: list[Ids] = tokenize(tokenizer, texts, add_special_tokens=False)["input_ids"]
    return found


def _tokenize_with_offsets(
    tokenizer: Any, texts: list[str]
) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]:
    """Returns token ids of each text, and start and end of each token in characters, shape [tokens, 2]."""
    if not texts:
        return []
    found = tokenize(tokenizer, texts, add_special_tokens=False, return_offsets_mapping=True)
    return [
        (np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2))
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]

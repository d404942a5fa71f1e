"""Tokens and loss masks of the rows of text generation. No torch.

Every row begins with what the tokenizer itself puts before a text (BOS, or nothing), once, and what is to
be written ends with EOS, which is learnt: a model that never sees its end never stops.
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
from finetune_trainer.tasks.text_generation.chat import Written, template_of, written
from finetune_trainer.tasks.text_generation.rows import Passage

_AT_ONCE = 512
Ids = list[int]


@dataclass(frozen=True)
class Marks:
    """The special tokens around a text."""

    start: tuple[int, ...]
    """What the tokenizer puts before every text, often BOS."""
    eos: int


def marks_of(tokenizer: Any) -> Marks:
    """The special tokens of a tokenizer.

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
    return Marks(tuple(start), eos)


def encoded(tokenizer: Any, rows: Sequence[Passage], train_on: TrainOn) -> list[Encoding]:
    """Each row whole; one that the chat template refuses says so.

    Raises:
        StageFailure: EosMissing, ChatTemplateMissing, ChatTemplateUnusable.
    """
    marks = marks_of(tokenizer)
    found: list[Encoding] = []
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows[start : start + _AT_ONCE]
        chats = iter(_conversations(tokenizer, marks, [row for row in batch if row.messages], train_on))
        texts = iter(_texts(tokenizer, marks, [row for row in batch if not row.messages], train_on))
        found += [next(chats if row.messages else texts) for row in batch]
    return found


def shortened(marks: Marks, row: Encoding, max_length: int, *, keeps_end: bool) -> Encoding:
    """A row of at most `max_length` tokens.

    With `keeps_end` what is given loses its beginning, down to half of the row; then, and otherwise, the
    row loses its end.
    """
    if len(row.ids) <= max_length or row.loss_mask is None:
        return row
    if not keeps_end or not row.loss_mask.any():
        return replace(_row(row.ids[:max_length], row.loss_mask[:max_length]), untrained=row.untrained)
    head, first = len(marks.start), int(row.loss_mask.argmax())
    room = max_length - head
    kept = max(room - (len(row.ids) - first), min(first - head, room // 2))
    there = np.r_[0:head, first - kept : first + room - kept]
    return replace(_row(row.ids[there], row.loss_mask[there]), untrained=row.untrained)


def _texts(tokenizer: Any, marks: Marks, rows: Sequence[Passage], train_on: TrainOn) -> list[Encoding]:
    """Prompts with their completions, and raw texts, which are completions of nothing.

    A prompt keeps the tokens that it has alone: those are what the model is given in use.
    """
    prompts = _ids(tokenizer, [row.prompt for row in rows])
    wholes = _ids(tokenizer, [row.prompt + row.completion for row in rows])
    seams = [whole[: len(prompt)] == prompt for prompt, whole in zip(prompts, wholes, strict=True)]
    alone = iter(_ids(tokenizer, [row.completion for row, seam in zip(rows, seams, strict=True) if not seam]))
    found = []
    for prompt, whole, seam in zip(prompts, wholes, seams, strict=True):
        completion = whole[len(prompt) :] if seam else next(alone)
        given = _started(marks, prompt) if prompt else list(marks.start)
        ids = given + completion if prompt else _started(marks, completion)
        ids = [*ids, *([] if ids[-1] == marks.eos else [marks.eos])]
        loss_mask = np.ones(len(ids), dtype=np.bool_)
        loss_mask[: len(given) if train_on == "Completion" else len(marks.start)] = False
        found.append(_row(np.array(ids, dtype=np.int32), loss_mask))
    return found


def _conversations(
    tokenizer: Any, marks: Marks, rows: Sequence[Passage], train_on: TrainOn
) -> list[Encoding]:
    if not rows:
        return []
    template = template_of(tokenizer, rows[0])
    chats = [written(tokenizer, template, row) for row in rows]
    usable = [chat for chat in chats if isinstance(chat, Written)]
    tokens = iter(_with_places(tokenizer, [chat.text for chat in usable]))
    return [
        _conversation(marks, row, chat, *next(tokens), train_on)
        if isinstance(chat, Written)
        else Encoding(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.bool_), fault=chat)
        for row, chat in zip(rows, chats, strict=True)
    ]


def _conversation(
    marks: Marks,
    row: Passage,
    chat: Written,
    ids: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    train_on: TrainOn,
) -> Encoding:
    """A conversation with what is learnt of it; what follows the last learnt token is left out.

    Of a message's end only EOS is learnt, where the template writes it: nothing is written after it. Where
    the template ends the last message otherwise, EOS follows.
    """
    spoken = [message for message in row.messages if message.role == "assistant"]
    unknown = [message for message, span in zip(spoken, chat.spans, strict=True) if span is None]
    # A message that is not to be learnt cannot be left out of all tokens where it cannot be found.
    everything = train_on == "All" and all(message.weight for message in unknown)
    loss_mask = np.full(len(ids), everything)
    end = 0
    for message, span in zip(spoken, chat.spans, strict=True):
        if span is not None:
            tokens = _tokens_of(ids, offsets, span, marks.eos)
            loss_mask[tokens] = bool(message.weight)
            end = tokens.stop if message.weight else end
    ended = end > 0 and ids[end - 1] == marks.eos
    if end and (train_on == "Completion" or not ended):
        ids, loss_mask = ids[:end], loss_mask[:end]
    if end and not ended:
        ids, loss_mask = np.append(ids, np.int32(marks.eos)), np.append(loss_mask, np.True_)
    twice = int(len(marks.start) > 0 and ids[:2].tolist() == [marks.start[0]] * 2)
    untrained = 0 if everything else sum(bool(message.weight) for message in unknown)
    return replace(_row(ids[twice:], loss_mask[twice:]), untrained=untrained)


def _tokens_of(
    ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], span: tuple[int, int], eos: int
) -> slice:
    """The tokens that begin within a span, up to its EOS; also one that stands right behind it."""
    inside = np.flatnonzero(
        (offsets[:, 0] >= span[0]) & (offsets[:, 0] < span[1]) & (offsets[:, 1] > offsets[:, 0])
    )
    if not len(inside):
        return slice(0, 0)
    start, end = int(inside[0]), int(inside[-1]) + 1
    ends = np.flatnonzero(ids[start : end + 1] == eos)
    return slice(start, start + int(ends[-1]) + 1 if len(ends) else end)


def _row(ids: npt.NDArray[np.int32], loss_mask: npt.NDArray[np.bool_]) -> Encoding:
    """The first token follows from nothing, so that nothing can be learnt of it."""
    loss_mask[:1] = False
    return Encoding(ids, loss_mask)


def _started(marks: Marks, ids: Ids) -> Ids:
    """With what a text begins, once: a text may bring it along."""
    return ids if marks.start and ids[: len(marks.start)] == list(marks.start) else [*marks.start, *ids]


def _ids(tokenizer: Any, texts: list[str]) -> list[Ids]:
    if not texts:
        return []
    found: list[Ids] = tokenize(tokenizer, texts, add_special_tokens=False)["input_ids"]
    return found


def _with_places(
    tokenizer: Any, texts: list[str]
) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]:
    """Token ids, and where each token starts and ends in its text, shape [tokens, 2]."""
    if not texts:
        return []
    found = tokenize(tokenizer, texts, add_special_tokens=False, return_offsets_mapping=True)
    return [
        (np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2))
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]

"""Renders conversations with the chat template, and finds the assistant's messages. No torch."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_generation.rows import Passage

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
Spoken = dict[str, str]
Render = Callable[..., Any]
"""render_jinja_template of transformers, for one template."""


@dataclass(frozen=True)
class Written:
    """A conversation as the model reads the conversation."""

    text: str
    spans: tuple[tuple[int, int] | None, ...]
    """Start and end, in characters, of what each message of the assistant adds to the text, its end mark
    included; None for a message that cannot be found in the text."""


def template_of(tokenizer: Any, row: Passage) -> str:
    """The tokenizer's own chat template.

    Raises:
        StageFailure: ChatTemplateMissing.
    """
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ChatTemplateMissing",
            f"line {row.line} is a conversation, but the model's tokenizer has no chat template.",
            "Put the chat_template.jinja of the model's instruct variant beside its tokenizer.json, or write"
            " rows of prompt and completion.",
        ) from None
    return template


def written(tokenizer: Any, template: str, row: Passage) -> Written | str:
    """A conversation under a template, or why the template refuses the conversation.

    Where the template marks the messages of the assistant (`{% generation %}`), the marks count. Otherwise a
    message of the assistant is what the text grows by with the message, less the header that the template
    itself writes to have the assistant speak.

    Some templates write a message differently once others follow: the templates of reasoning models give
    the last answer alone a block of thoughts. Such a conversation ends with the last message that is learnt,
    and only this message is found.

    Raises:
        StageFailure: ChatTemplateUnusable, not even the last message can be found.
    """
    # By its name: mypy believes an older signature.
    library = import_module("transformers.utils.chat_template_utils")
    messages = [{"role": message.role, "content": message.content} for message in row.messages]
    render = partial(library.render_jinja_template, chat_template=template, **tokenizer.special_tokens_map)
    try:
        text = str(render(conversations=[messages])[0][0])
        if _MARKED.search(template):
            marks = render(conversations=[messages], return_assistant_tokens_mask=True)[1][0]
            if len(marks) == sum(message.role == "assistant" for message in row.messages):
                return Written(text, tuple(marks))
    except Exception as error:  # noqa: BLE001 - whatever a foreign template raises
        return str(error)[:200] or type(error).__name__
    spoken = [number for number, message in enumerate(row.messages) if message.role == "assistant"]
    spans = tuple(_span(render, messages, number, text) for number in spoken)
    if None not in spans:
        return Written(text, spans)
    learnt = [number for number in spoken if row.messages[number].weight]
    last = learnt[-1] if learnt else spoken[-1]
    start = _rendered(render, messages[: last + 1], speak_next=False)
    span = _span(render, messages, last, start) if start is not None else None
    if start is None or span is None:
        raise _unusable(row, last)
    return Written(start, tuple(span if number == last else None for number in spoken))


def _span(render: Render, messages: Sequence[Spoken], number: int, text: str) -> tuple[int, int] | None:
    """Where one message of the assistant begins and ends in a text; None if it cannot be found."""
    whole = _rendered(render, messages[: number + 1], speak_next=False)
    if whole is None or not text.startswith(whole):
        return None
    for speak_next in (True, False):
        before = _rendered(render, messages[:number], speak_next=speak_next)
        if before is not None and whole.startswith(before):
            return len(before), len(whole)
    return None if number else (0, len(whole))


def _rendered(render: Render, part: Sequence[Spoken], *, speak_next: bool) -> str | None:
    """The start of a conversation; None where the template takes no such start."""
    try:
        return str(render(conversations=[list(part)], add_generation_prompt=speak_next)[0][0])
    except Exception:  # noqa: BLE001 - whatever a foreign template raises
        return None


def _unusable(row: Passage, number: int) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG,
        "ChatTemplateUnusable",
        f"line {row.line}: the tokenizer's chat template writes the messages before message {number + 1}"
        " differently once the message follows, so that the tokens of the assistant cannot be found.",
        "Put {% generation %} and {% endgeneration %} around the messages of the assistant in the template,"
        " or end each conversation with its first answer.",
    )

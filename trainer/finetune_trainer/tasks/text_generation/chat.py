"""Renders conversations with the chat template, and locates the messages of the assistant. No torch."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_generation.rows import Passage

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
ChatMessage = dict[str, str]
Render = Callable[..., Any]
"""The function render_jinja_template of transformers with a template."""


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation rendered as text."""

    text: str
    spans: tuple[tuple[int, int] | None, ...]
    """Start and end of each message of the assistant in characters, end marker included; None for a message
    that cannot be located in the text."""


def get_chat_template(tokenizer: Any, row: Passage) -> str:
    """Returns the chat template of the tokenizer.

    Args:
        tokenizer: the tokenizer of the model.
        row: a conversation, for the message.

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


def render_conversation(tokenizer: Any, template: str, row: Passage) -> RenderedConversation | str:
    """Renders a conversation, or returns the error of the template.

    If the template marks the messages of the assistant (`{% generation %}`), the spans are these marks.
    Otherwise the span of a message is the text that the message appends to the preceding conversation with
    generation prompt.

    Some templates render a message differently if other messages follow. For example, templates of reasoning
    models include thoughts only in the last answer. Such a conversation is truncated after the last message
    with loss, and only this message has a span.

    Args:
        tokenizer: the tokenizer of the model.
        template: the chat template.
        row: the conversation.

    Raises:
        StageFailure: ChatTemplateUnusable, if the last message cannot be located.
    """
    # import_module, because the type stubs have an older signature.
    library = import_module("transformers.utils.chat_template_utils")
    messages = [{"role": message.role, "content": message.content} for message in row.messages]
    render = partial(library.render_jinja_template, chat_template=template, **tokenizer.special_tokens_map)
    try:
        text = str(render(conversations=[messages])[0][0])
        if _GENERATION_TAG.search(template):
            marks = render(conversations=[messages], return_assistant_tokens_mask=True)[1][0]
            if len(marks) == sum(message.role == "assistant" for message in row.messages):
                return RenderedConversation(text, tuple(marks))
    except Exception as error:  # noqa: BLE001 - templates raise arbitrary exceptions
        return str(error)[:200] or type(error).__name__
    spoken = [number for number, message in enumerate(row.messages) if message.role == "assistant"]
    spans = tuple(_find_span(render, messages, number, text) for number in spoken)
    if None not in spans:
        return RenderedConversation(text, spans)
    learnt = [number for number in spoken if row.messages[number].weight]
    last = learnt[-1] if learnt else spoken[-1]
    start = _render_start(render, messages[: last + 1], speak_next=False)
    span = _find_span(render, messages, last, start) if start is not None else None
    if start is None or span is None:
        raise _unusable_template(row, last)
    return RenderedConversation(start, tuple(span if number == last else None for number in spoken))


def _find_span(
    render: Render, messages: Sequence[ChatMessage], number: int, text: str
) -> tuple[int, int] | None:
    """Returns start and end of a message of the assistant in the text; None if the message is not found."""
    whole = _render_start(render, messages[: number + 1], speak_next=False)
    if whole is None or not text.startswith(whole):
        return None
    for speak_next in (True, False):
        before = _render_start(render, messages[:number], speak_next=speak_next)
        if before is not None and whole.startswith(before):
            return len(before), len(whole)
    return None if number else (0, len(whole))


def _render_start(render: Render, part: Sequence[ChatMessage], *, speak_next: bool) -> str | None:
    """Renders the first messages of a conversation; None if the template raises an error."""
    try:
        return str(render(conversations=[list(part)], add_generation_prompt=speak_next)[0][0])
    except Exception:  # noqa: BLE001 - templates raise arbitrary exceptions
        return None


def _unusable_template(row: Passage, number: int) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG,
        "ChatTemplateUnusable",
        f"line {row.line}: the tokenizer's chat template writes the messages before message {number + 1}"
        " differently once the message follows, so that the tokens of the assistant cannot be found.",
        "Put {% generation %} and {% endgeneration %} around the messages of the assistant in the template,"
        " or end each conversation with its first answer.",
    )

"""Conversations as the tokenizer's chat template writes them, and where the assistant speaks. No torch."""

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
    """A conversation as the model reads it."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Start and end, in characters, of what each message of the assistant adds, its end mark included."""


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
    """A conversation under a template, or why the template refuses it.

    Where the template marks what the assistant says (`{% generation %}`), the marks count. Otherwise a
    message of the assistant is what the text grows by with it, less the header that the template itself
    writes to have the assistant speak.

    Raises:
        StageFailure: ChatTemplateUnusable, an earlier part of the text changes with what follows.
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
    spans = [
        _span(render, messages, number, text, row)
        for number, message in enumerate(row.messages)
        if message.role == "assistant"
    ]
    return Written(text, tuple(spans))


def _span(
    render: Render, messages: Sequence[Spoken], number: int, text: str, row: Passage
) -> tuple[int, int]:
    """Where one message of the assistant begins and ends."""
    whole = _rendered(render, messages[: number + 1], speak_next=False)
    if whole is None or not text.startswith(whole):
        raise _unusable(row, number)
    for speak_next in (True, False):
        before = _rendered(render, messages[:number], speak_next=speak_next)
        if before is not None and whole.startswith(before):
            return len(before), len(whole)
    if number:
        raise _unusable(row, number)
    return 0, len(whole)


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
        f"line {row.line}: the tokenizer's chat template writes message {number + 1} otherwise once others"
        " follow, so that nobody can tell which tokens are the assistant's.",
        "Put {% generation %} and {% endgeneration %} around what the assistant says in the template, or end"
        " each conversation with its first answer.",
    )

"""PURE: parses the rows of text generation: conversations, prompts with completions, and raw text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from finetune_trainer.config import Columns, TrainOn
from finetune_trainer.data.texts import describe_type, has_invalid_characters, normalise

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: tuple[Role, ...] = get_args(Role)
_KEYS = ("role", "content", "weight")
_EXCERPT = 60


@dataclass(frozen=True)
class Message:
    """A message of a conversation."""

    role: Role
    content: str
    weight: int
    """1 for a message with loss, otherwise 0. The default is 1 for the assistant and 0 for other roles."""


@dataclass(frozen=True)
class Passage:
    """A usable row."""

    line: int
    messages: tuple[Message, ...] = ()
    """The messages of a conversation; empty for other rows."""
    prompt: str = ""
    """The prompt; empty for raw text and conversations."""
    completion: str = ""
    """The completion or the raw text; empty for conversations."""

    @property
    def given(self) -> str:
        """The text before the first message with loss, or the prompt."""
        return _join_messages(self.messages[: self._first]) or self.prompt

    @property
    def _first(self) -> int:
        """Index of the first message with loss."""
        return next((n for n, message in enumerate(self.messages) if message.weight), 0)

    @property
    def key(self) -> str:
        """The normalised input of the model; for raw text the normalised text."""
        return normalise(self.given) or normalise(self.identity)

    @property
    def identity(self) -> str:
        """The whole row."""
        return _join_messages(self.messages) or f"{self.prompt}\n{self.completion}"

    @property
    def stratum(self) -> str:
        """One stratum for all rows."""
        return ""

    @property
    def raw_stratum(self) -> str:
        """Empty, because the stratum has no other form."""
        return ""

    @property
    def excerpt(self) -> str:
        """The start of the message before the first message with loss, of the prompt, or of the text."""
        before = self.messages[max(0, self._first - 1)].content if self.messages else ""
        text = before or self.prompt or self.completion
        return text[:_EXCERPT]


def parse_passage(line: int, values: Mapping[str, Any], columns: Columns, train_on: TrainOn) -> Passage | str:
    """Parses a row, or returns why the row cannot be used.

    The columns determine the kind of row in this order: messages, prompt and completion, text. A null value
    counts as a missing column.

    Args:
        line: number of the row's line.
        values: values of the row by column.
        columns: names of the columns.
        train_on: whether a conversation needs a message with loss.
    """
    present = {column for column, value in values.items() if value is not None}
    if columns.messages in present:
        found = parse_conversation(values[columns.messages], columns.messages, train_on)
        return found if isinstance(found, str) else Passage(line, messages=found)
    if columns.completion in present or (columns.prompt in present and columns.text not in present):
        return _parse_completion(line, values, columns)
    if columns.text not in present:
        return (
            f"has no {columns.messages!r}, no {columns.prompt!r} with {columns.completion!r} and no"
            f" {columns.text!r}"
        )
    text = values[columns.text]
    return _check_text(text, columns.text) or Passage(line, completion=text)


def parse_conversation(value: Any, column: str, train_on: TrainOn) -> tuple[Message, ...] | str:
    """Parses the messages of a conversation, or returns the fault.

    Args:
        value: the value of the column.
        column: name of the column.
        train_on: whether the conversation needs a message with loss.
    """
    if not isinstance(value, list):
        return f"{column!r} is {describe_type(value)}, not a list of messages"
    if not value:
        return f"{column!r} is empty"
    messages = []
    for number, entry in enumerate(value, start=1):
        found = _parse_message(entry)
        if isinstance(found, str):
            return f"message {number} of {column!r} {found}"
        messages.append(found)
    if train_on == "Completion" and not any(message.weight for message in messages):
        spoken = any(message.role == "assistant" for message in messages)
        return f"{column!r} has no message of the assistant" + (
            " with a weight other than 0" if spoken else ""
        )
    return tuple(messages)


def _parse_message(entry: Any) -> Message | str:  # noqa: PLR0911 - one for each fault
    if not isinstance(entry, dict):
        return f"is {describe_type(entry)}, not an object with role and content"
    # Parquet contains null for a key that only other rows have.
    fields = {key: value for key, value in entry.items() if value is not None}
    if "tool_calls" in fields:
        return f"has 'tool_calls', which are not supported; the known keys are {', '.join(_KEYS)}"
    if fields.keys() - set(_KEYS):
        return f"has a key other than {', '.join(_KEYS)}"
    content = fields.get("content")
    role = next((known for known in _ROLES if known == fields.get("role")), None)
    if role is None:
        return f"has a role other than {', '.join(_ROLES)}"
    if not isinstance(content, str):
        return f"has as content {describe_type(content)}, not a text"
    if has_invalid_characters(content):
        return "holds a NUL or half a character"
    weight = fields.get("weight", int(role == "assistant"))
    if wrong := _check_weight(weight, role):
        return wrong
    if weight and not content.strip():
        return "is to be learnt but empty"
    return Message(role, content, int(weight))


def _check_weight(weight: Any, role: Role) -> str:
    if isinstance(weight, bool) or weight not in (0, 1):
        return "has a weight other than 0 and 1"
    if weight and role != "assistant":
        return f"has the weight 1, but only the assistant's messages are learnt, not those of {role}"
    return ""


def _parse_completion(line: int, values: Mapping[str, Any], columns: Columns) -> Passage | str:
    prompt, completion = values.get(columns.prompt), values.get(columns.completion)
    for column, value, other in (
        (columns.prompt, prompt, columns.completion),
        (columns.completion, completion, columns.prompt),
    ):
        if value is None:
            return f"has {other!r} but no {column!r}"
        if wrong := _check_text(value, column):
            return wrong
    return Passage(line, prompt=str(prompt), completion=str(completion))


def _check_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        return f"{column!r} is {describe_type(value)}, not a text"
    if not value.strip():
        return f"{column!r} is empty"
    return f"{column!r} holds a NUL or half a character" if has_invalid_characters(value) else ""


def _join_messages(messages: tuple[Message, ...]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)

"""PURE: rows of text generation: a conversation, a prompt and its completion, or raw text."""

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
    """One turn of a conversation."""

    role: Role
    content: str
    weight: int
    """0 leaves it unlearnt; 1 for whatever the assistant says, 0 for all others."""


@dataclass(frozen=True)
class Passage:
    """A row that can be used."""

    line: int
    messages: tuple[Message, ...] = ()
    """A conversation; empty for the other kinds."""
    prompt: str = ""
    """What the model is given; empty for raw text and conversations."""
    completion: str = ""
    """What it is to write; empty for conversations."""

    @property
    def given(self) -> str:
        """What stands before the first thing that is learnt."""
        return _written(self.messages[: self._first]) or self.prompt

    @property
    def _first(self) -> int:
        """Position of the first message that is learnt."""
        return next((n for n, message in enumerate(self.messages) if message.weight), 0)

    @property
    def key(self) -> str:
        """Two rows are the same question where they start from the same; raw text starts from nothing."""
        return normalise(self.given) or normalise(self.identity)

    @property
    def identity(self) -> str:
        """The whole row."""
        return _written(self.messages) or f"{self.prompt}\n{self.completion}"

    @property
    def stratum(self) -> str:
        """All rows are of one kind for a split."""
        return ""

    @property
    def written(self) -> str:
        """The stratum has no other form."""
        return ""

    @property
    def excerpt(self) -> str:
        """The start of the message before the first learnt message, of the prompt, or of the text."""
        before = self.messages[max(0, self._first - 1)].content if self.messages else ""
        text = before or self.prompt or self.completion
        return text[:_EXCERPT]


def passage(line: int, values: Mapping[str, Any], columns: Columns, train_on: TrainOn) -> Passage | str:
    """A row, or why it cannot be used.

    Its columns say what it is: messages before prompt and completion before text; null is as good as absent.
    """
    there = {column for column, value in values.items() if value is not None}
    if columns.messages in there:
        found = conversation(values[columns.messages], columns.messages, train_on)
        return found if isinstance(found, str) else Passage(line, messages=found)
    if columns.completion in there or (columns.prompt in there and columns.text not in there):
        return _completion(line, values, columns)
    if columns.text not in there:
        return (
            f"has no {columns.messages!r}, no {columns.prompt!r} with {columns.completion!r} and no"
            f" {columns.text!r}"
        )
    text = values[columns.text]
    return _refused(text, columns.text) or Passage(line, completion=text)


def conversation(value: Any, column: str, train_on: TrainOn) -> tuple[Message, ...] | str:
    """The messages of a conversation, or what is wrong with them."""
    if not isinstance(value, list):
        return f"{column!r} is {describe_type(value)}, not a list of messages"
    if not value:
        return f"{column!r} is empty"
    messages = []
    for number, entry in enumerate(value, start=1):
        found = _message(entry)
        if isinstance(found, str):
            return f"message {number} of {column!r} {found}"
        messages.append(found)
    if train_on == "Completion" and not any(message.weight for message in messages):
        spoken = any(message.role == "assistant" for message in messages)
        return f"{column!r} has no message of the assistant" + (
            " with a weight other than 0" if spoken else ""
        )
    return tuple(messages)


def _message(entry: Any) -> Message | str:  # noqa: PLR0911 - one for each fault
    if not isinstance(entry, dict):
        return f"is {describe_type(entry)}, not an object with role and content"
    # What Parquet has for a key that some other row has.
    told = {key: value for key, value in entry.items() if value is not None}
    if "tool_calls" in told:
        return f"has 'tool_calls', which are not supported; the known keys are {', '.join(_KEYS)}"
    if told.keys() - set(_KEYS):
        return f"has a key other than {', '.join(_KEYS)}"
    content = told.get("content")
    role = next((known for known in _ROLES if known == told.get("role")), None)
    if role is None:
        return f"has a role other than {', '.join(_ROLES)}"
    if not isinstance(content, str):
        return f"has as content {describe_type(content)}, not a text"
    if has_invalid_characters(content):
        return "holds a NUL or half a character"
    weight = told.get("weight", int(role == "assistant"))
    if wrong := _wrong_weight(weight, role):
        return wrong
    if weight and not content.strip():
        return "is to be learnt but empty"
    return Message(role, content, int(weight))


def _wrong_weight(weight: Any, role: Role) -> str:
    if isinstance(weight, bool) or weight not in (0, 1):
        return "has a weight other than 0 and 1"
    if weight and role != "assistant":
        return f"has the weight 1, but only the assistant's messages are learnt, not those of {role}"
    return ""


def _completion(line: int, values: Mapping[str, Any], columns: Columns) -> Passage | str:
    prompt, completion = values.get(columns.prompt), values.get(columns.completion)
    for column, value, other in (
        (columns.prompt, prompt, columns.completion),
        (columns.completion, completion, columns.prompt),
    ):
        if value is None:
            return f"has {other!r} but no {column!r}"
        if wrong := _refused(value, column):
            return wrong
    return Passage(line, prompt=str(prompt), completion=str(completion))


def _refused(value: Any, column: str) -> str:
    if not isinstance(value, str):
        return f"{column!r} is {describe_type(value)}, not a text"
    if not value.strip():
        return f"{column!r} is empty"
    return f"{column!r} holds a NUL or half a character" if has_invalid_characters(value) else ""


def _written(messages: tuple[Message, ...]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)

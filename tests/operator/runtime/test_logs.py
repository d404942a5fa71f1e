import asyncio
import json
import logging
from typing import Any

import pytest

from finetune_operator.runtime import logs
from finetune_trainer.contract import acts_on_terminals


def formatted(message: str, *arguments: object, error: bool = False) -> str:
    raised = ValueError("inner\nlines")
    info = (type(raised), raised, raised.__traceback__) if error else None
    record = logging.LogRecord("finetune_operator.x", logging.INFO, "f", 1, message, arguments, info)
    return logs.JsonLines().format(record)


def line(message: str, *arguments: object, error: bool = False) -> dict[str, Any]:
    text = formatted(message, *arguments, error=error)
    assert "\n" not in text
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_line_is_json_for_any_message() -> None:
    said = line('quotes " and\nlines and %s', {"a": 1})
    assert said["message"] == "quotes \" and\nlines and {'a': 1}"
    assert said["level"] == "info"
    assert said["logger"] == "finetune_operator.x"


def test_control_characters_are_escaped_and_decode_to_the_same_text() -> None:
    said = "\x1b[31m \x7f\x9b \u202e\u2028 \ue000\U000e0001 caf\u00e9 \U0001f600"
    text = formatted(said)
    assert not any(map(acts_on_terminals, text))
    assert "caf\u00e9 \U0001f600" in text
    assert json.loads(text)["message"] == said


def test_a_traceback_is_a_field() -> None:
    assert "ValueError: inner" in line("failed", error=True)["traceback"]


def test_long_texts_are_cut() -> None:
    assert len(line("x" * 100_000)["message"]) == logs.MAX_TEXT


async def test_each_task_logs_its_own_job() -> None:
    async def reconcile(name: str) -> Any:
        logs.about(job=name, attempt=None)
        await asyncio.sleep(0)
        return line("x")

    first, second = await asyncio.gather(reconcile("a"), reconcile("b"))
    assert (first["job"], second["job"]) == ("a", "b")
    assert "attempt" not in first


def test_libraries_log_from_warning(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        logs.set_up(verbose=False)
        logging.getLogger("kopf").info("chatter")
        logging.getLogger("finetune_operator.y").info("news")
        logging.getLogger("finetune_operator.y").debug("detail")
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger("finetune_operator").setLevel(logging.NOTSET)
    said = [json.loads(text)["message"] for text in capsys.readouterr().err.splitlines()]
    assert said == ["news"]

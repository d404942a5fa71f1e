import asyncio
import json
import logging
from typing import Any

import pytest

from finetune_operator.runtime import logs


def line(message: str, *arguments: object, error: bool = False) -> dict[str, Any]:
    raised = ValueError("inner\nlines")
    info = (type(raised), raised, raised.__traceback__) if error else None
    record = logging.LogRecord("finetune_operator.x", logging.INFO, "f", 1, message, arguments, info)
    text = logs.JsonLines().format(record)
    assert "\n" not in text
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_line_is_json_whatever_it_says() -> None:
    said = line('quotes " and\nlines and %s', {"a": 1})
    assert said["message"] == "quotes \" and\nlines and {'a': 1}"
    assert said["level"] == "info"
    assert said["logger"] == "finetune_operator.x"


def test_a_traceback_is_a_field() -> None:
    assert "ValueError: inner" in line("failed", error=True)["traceback"]


def test_long_texts_are_cut() -> None:
    assert len(line("x" * 100_000)["message"]) == logs.MAX_TEXT


async def test_each_task_tells_of_its_own_job() -> None:
    async def reconcile(name: str) -> Any:
        logs.about(job=name, attempt=None)
        await asyncio.sleep(0)
        return line("x")

    first, second = await asyncio.gather(reconcile("a"), reconcile("b"))
    assert (first["job"], second["job"]) == ("a", "b")
    assert "attempt" not in first


def test_libraries_speak_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
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

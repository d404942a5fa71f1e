"""No value of a row reaches the log, the progress or the termination message; values stay in S3."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devcluster.controlplane import free_ports
from finetune_trainer.config import Rendezvous, TrainConfig
from finetune_trainer.contract import (
    METRICS,
    FailureClass,
    PreparePayload,
    RankFile,
    Stage,
    TerminationMessage,
    acts_on_terminals,
)
from finetune_trainer.paths import Paths
from tests.trainer.data.written import parquet
from tests.trainer.stages.test_prepare import Job, job, lines  # noqa: F401 - a fixture

MARK = "zqsecret"
"""Part of every value of every row."""


@dataclass(frozen=True)
class Case:
    """A data set, and the reason that Prepare ends with."""

    reason: str
    train: bytes
    test: bytes | None = None
    name: str = "train.jsonl"
    changes: dict[str, Any] = field(default_factory=dict)
    in_report: bool = False
    """Whether the report quotes values."""


def row(number: int, label: str = "", **more: Any) -> dict[str, Any]:
    return {"text": f"{MARK} w{2 + number}", "label": label or f"{MARK}-{'ab'[number % 2]}", **more}


def rows(count: int = 60, first: int = 0) -> bytes:
    return lines(*(row(number) for number in range(first, first + count)))


def csv(*cells: str) -> bytes:
    body = "".join(f"{MARK} w{2 + n},{MARK}-{'ab'[n % 2]}\n" for n in range(60))
    return (",".join(cells) + "\n" + body).encode()


def damaged(data: bytes) -> bytes:
    """Bytes in the middle turned over, where a Parquet file has its pages."""
    return data[:40] + bytes(255 - byte for byte in data[40:80]) + data[80:]


TABLE = parquet([{"text": f"{MARK} w{n}", "label": f"{MARK}-{'ab'[n % 2]}"} for n in range(60)])
CASES = {
    "good": Case("Done", rows(), rows(40, 60), in_report=True),
    "no-json": Case("TooManyBadRows", rows() + f"{MARK}\n".encode() * 9),
    "string": Case("TooManyBadRows", rows() + f'"{MARK}"\n'.encode() * 9),
    "unterminated": Case("TooManyBadRows", rows() + f'{{"text": "{MARK}\n'.encode() * 9),
    "escape": Case("TooManyBadRows", rows() + f'{{"text": "{MARK}\\q"}}\n'.encode() * 9),
    "extra": Case("TooManyBadRows", rows() + f'{{"text": "a"}} {MARK}\n'.encode() * 9),
    "number": Case("TooManyBadRows", rows() + b'{"text": ' + b"9" * 5000 + b"}\n"),
    "list": Case("TooManyBadRows", rows() + lines(*(row(n, label=[MARK]) for n in range(9)))),  # type: ignore[arg-type]
    "object": Case("TooManyBadRows", rows() + lines(*(row(n, label={MARK: MARK}) for n in range(9)))),  # type: ignore[arg-type]
    "no-text": Case("TooManyBadRows", rows() + lines(*({"text": [MARK], "label": MARK} for _ in range(9)))),
    "not-utf-8": Case("DataCorrupt", rows() + MARK.encode() + b"\xff\n" * 9),
    "nul": Case("DataCorrupt", rows() + f'{{"text": "{MARK}\0"}}\n'.encode() * 9),
    "utf-16": Case("DataCorrupt", rows().decode().encode("utf-16")),
    "array": Case("DataCorrupt", b"[" + rows().replace(b"\n", b",") + b"{}]"),
    "truncated": Case("DataCorrupt", gzip.compress(rows())[:-9], name="train.jsonl.gz"),
    "no-header": Case("ColumnsMissing", csv(f"{MARK} w2", f"{MARK}-a"), name="train.csv", in_report=True),
    "no-header-twice": Case("DataCorrupt", csv(MARK, MARK), name="train.csv"),
    "other-header": Case("ColumnsMissing", csv("text", "queue"), name="train.csv"),
    "cells": Case(
        "TooManyBadRows", csv("text", "label") + f"{MARK},{MARK},{MARK}\n".encode() * 9, name="t.csv"
    ),
    "quotes": Case("TooManyBadRows", csv("text", "label") + f'"{MARK}"{MARK},"\n'.encode() * 9, name="t.csv"),
    "keys": Case(
        "ColumnsMissing",
        lines(*({f"{MARK} {n}": MARK, f"{n} {MARK}": MARK} for n in range(60))),
        in_report=True,
    ),
    "damaged": Case("DataCorrupt", damaged(TABLE), name="train.parquet"),
    "columns": Case("ColumnsMissing", parquet([{"body": MARK, "queue": MARK}]), name="train.parquet"),
    "no-parquet": Case("DataCorrupt", rows(), name="train.parquet"),
    "one-class": Case("SingleClass", lines(*(row(n, label=MARK) for n in range(60))), in_report=True),
    "unseen": Case(
        "LabelUnseen", rows(), lines(*(row(60 + n, label=f"{MARK}-c") for n in range(30))), in_report=True
    ),
    "classes": Case(
        "Done",
        rows(200)
        + lines(row(0, f"{MARK}-c"), row(1, f"{MARK}-C"), row(2, f"{MARK}-a"))
        # Texts of their own, so that a draw of the conflicting texts leaves training rows of both labels.
        + lines(row(300, f"{MARK}-c"), row(301, f"{MARK}-C")),
        rows(40, 200),
        in_report=True,
    ),
    "no-row-left": Case("NoRows", rows(), rows()),
    "too-few": Case("SplitTooSmall", rows(5), rows(40, 60), changes={"world__nodes": 16}),
}
GENERATION = {
    "task": "TextGeneration",
    "evaluation": {"metrics": METRICS["TextGeneration"], "primaryMetric": "loss"},
    "dataset__test": {"split": 0.1},
}


def chat(number: int, *roles: str, **last: Any) -> dict[str, Any]:
    turns: list[dict[str, Any]] = [{"role": role, "content": f"{MARK} {number}"} for role in roles]
    turns[-1] |= last
    return {"messages": turns}


def chats(*odd: dict[str, Any]) -> bytes:
    return lines(*(chat(n, "user", "assistant") for n in range(60)), *odd)


def conversations(reason: str, *odd: dict[str, Any], **more: Any) -> Case:
    return Case(reason, chats(*odd), changes=GENERATION, **more)


CHATS = {
    "good-chats": Case("Done", chats(), changes=GENERATION),
    "role": conversations("TooManyBadRows", chat(61, "user", MARK)),
    "key": conversations("TooManyBadRows", chat(61, "user", "assistant", **{MARK: MARK})),
    "content": conversations("TooManyBadRows", chat(61, "user", "assistant", content=[MARK])),
    "weight": conversations("TooManyBadRows", chat(61, "user", "assistant", weight=MARK)),
    "message": conversations("TooManyBadRows", {"messages": [MARK]}),
    "messages": conversations("TooManyBadRows", {"messages": MARK}),
    "refused": conversations("ChatTemplateRefused", chat(61, "user", "user", "assistant"), in_report=True),
    "cut": Case("NoTrainedTokens", chats(), changes=GENERATION | {"training__maxLength": 8}),
}
REFUSING = """{% for message in messages %}{% if loop.index0 % 2 != (message.role == 'assistant') | int %}
{{ raise_exception('Roles must alternate, this is not: ' + message.content) }}{% endif %}
<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""
"""A chat template that quotes the row which it refuses."""


@dataclass(frozen=True)
class Ended:
    """What a rank left in its pod."""

    told: RankFile
    log: str
    progress: str
    hint: str


@pytest.fixture
def ranks(job: Job) -> Callable[[dict[str, Case]], dict[str, Ended]]:  # noqa: F811
    """Runs Prepare for each case in a rank of its own."""

    def run(cases: dict[str, Case]) -> dict[str, Ended]:
        roots = {name: job.paths.root / name for name in cases}
        for name, case in cases.items():
            job.put(f"{name}/{case.name}", case.train)
            job.put(f"{name}/test.jsonl", rows(40, 60) if case.test is None else case.test)
            changes = {
                "dataset__train__uri": f"s3://BUCKET/{name}/{case.name}",
                "dataset__test__uri": f"s3://BUCKET/{name}/test.jsonl",
                **case.changes,
                "runs": f"s3://BUCKET/{name}/runs/",
            }
            if "dataset__test" in changes:
                del changes["dataset__test__uri"]
            paths = Paths(roots[name])
            paths.config.parent.mkdir(parents=True)
            paths.config.write_text(job.config(**changes).model_dump_json(by_alias=True))
            for part in ("var", "etc/finetune/ca"):
                (paths.root / part).symlink_to(job.paths.root / part)
        program = Path(__file__).parents[1] / "programs" / "ranks.py"
        subprocess.run([sys.executable, program, *roots.values()], check=True, timeout=300)
        return {name: ended(Paths(root)) for name, root in roots.items()}

    return run


def ended(paths: Paths) -> Ended:
    told = RankFile.model_validate_json((paths.ranks / "0.json").read_bytes())
    log = (paths.root / "log.txt").read_text()
    return Ended(told, log, paths.progress.read_text(), told.hint)


def assert_nothing_is_told(cases: dict[str, Case], left: dict[str, Ended], job: Job) -> None:  # noqa: F811
    for name, case in cases.items():
        what = left[name]
        assert what.told.reason == case.reason, (name, what)
        shown = what.told.model_dump_json() + what.log + what.progress
        assert MARK not in shown.lower(), (name, shown)
        reports = [
            key
            for key in job.keys()  # noqa: SIM118 - no dict
            if key.startswith(f"{name}/runs/") and key.endswith("report.json")
        ]
        texts = [job.store.read(f"s3://{job.bucket}/{key}").decode() for key in reports]
        if case.in_report:
            assert any(MARK in text for text in texts), (name, texts)


def test_whatever_is_wrong_with_rows_to_classify_no_value_of_them_is_told(
    job: Job,  # noqa: F811
    ranks: Callable[[dict[str, Case]], dict[str, Ended]],
) -> None:
    assert_nothing_is_told(CASES, ranks(CASES), job)


def test_whatever_is_wrong_with_conversations_no_value_of_them_is_told(
    job: Job,  # noqa: F811
    ranks: Callable[[dict[str, Case]], dict[str, Ended]],
    tiny_llama: Path,
) -> None:
    for path in tiny_llama.iterdir():
        job.put(f"model/{path.name}", path.read_bytes())
    job.put("model/chat_template.jinja", REFUSING.encode())
    assert_nothing_is_told(CHATS, ranks(CHATS), job)


def pod(paths: Paths, config: TrainConfig) -> tuple[TerminationMessage, str]:
    """Runs one stage as a pod does: its last words, and what `kubectl logs` shows."""
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    paths.config.write_text(config.model_dump_json(by_alias=True))
    ended = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "--root", str(paths.root), "--port", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    return TerminationMessage.decode(paths.termination_log.read_bytes()), ended.stdout.decode()


def test_training_tells_no_value_of_a_row(job: Job) -> None:  # noqa: F811
    job.put("data/train.jsonl", rows(60))
    job.put("data/test.jsonl", rows(40, 60))
    config = job.config(world={"nodes": 1}, training={"epochs": 1}, runs=f"s3://{job.bucket}/ns/runs/")
    prepared, said = pod(job.paths, config)
    assert isinstance(prepared.payload, PreparePayload), said
    given = {
        "stage": Stage.TRAIN,
        "chosen": prepared.payload.chosen,
        "prepared": prepared.payload.data_digest,
        "rendezvous": Rendezvous(master_port=free_ports(1)[0]),
    }
    trained, more = pod(job.paths, config.model_copy(update=given))
    assert trained.failure is FailureClass.SUCCESS, more
    told = f"{prepared} {trained} {said} {more} {job.paths.progress.read_text()}"
    assert MARK not in told.lower()


def test_names_of_columns_and_files_do_not_act_on_a_terminal(job: Job) -> None:  # noqa: F811
    ugly = "bo\x1b[2J\x9b31m\u202edy\u2028"
    job.put("data/train.jsonl", lines(*({ugly: f"w{n}"} for n in range(60))))
    told, said = pod(job.paths, job.config())
    assert told.reason == "ColumnsMissing"
    assert r"it has bo\x1b[2J\x9b31m\u202edy\u2028" in told.message
    assert told.message in said
    shown = job.paths.termination_log.read_text() + said.replace("\n", "")
    assert not any(map(acts_on_terminals, shown))

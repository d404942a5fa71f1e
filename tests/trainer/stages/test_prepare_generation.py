"""Prepare of a text generator against a real S3 server: rows of all three kinds, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.config import StoreAccess
from finetune_trainer.contract import METRICS
from finetune_trainer.data.shards import load_prepared
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store
from tests.trainer.data.written import parquet
from tests.trainer.models import bases
from tests.trainer.stages.test_prepare import Job, lines

GENERATION = {
    "task": "TextGeneration",
    "evaluation": {"metrics": METRICS["TextGeneration"], "primaryMetric": "loss"},
    "dataset__test": {"split": 0.1},
}


def rows(count: int) -> list[dict[str, Any]]:
    """Conversations, completions and texts in turn, no two alike."""
    kinds = (
        lambda n: {
            "messages": [{"role": "user", "content": f"Q {n}"}, {"role": "assistant", "content": "Yes."}]
        },
        lambda n: {"prompt": f"Question {n}:", "completion": f" answer {n % 5}"},
        lambda n: {"text": f"Text number {n}."},
    )
    return [kinds[n % 3](n) for n in range(count)]


@pytest.fixture
def job(bucket: str, access: StoreAccess, paths: Paths, store: Store, tiny_llama: Path) -> Job:
    made = Job(bucket, access, paths, store)
    for path in tiny_llama.iterdir():
        made.put(f"model/{path.name}", path.read_bytes())
    made.put("data/train.jsonl", lines(*rows(120)))
    return made


def test_rows_of_all_kinds_are_stored_with_what_is_learnt_and_shown(job: Job) -> None:
    payload = job.prepare(**GENERATION)
    assert payload.labels == 0
    assert payload.rows.model_dump() == {"train": 96, "validation": 12, "test": 12, "dropped": 0}
    prepared = load_prepared(job.store, payload.prepared, job.paths)
    train = prepared.train
    loss_mask = [train.loss_mask[train.offsets[row] : train.offsets[row + 1]] for row in range(len(train))]
    assert all(row[1:].any() and not row[0] for row in loss_mask)
    assert all(train.row(row)[0] == 0 and train.row(row)[-1] == 1 for row in range(len(train)))
    longest = max(map(len, loss_mask))
    assert payload.chosen.max_length == -(-longest // 8) * 8
    assert payload.truncated_tokens == 0
    report = json.loads(job.store.read(payload.report))
    assert report["trainedTokens"] == int(np.asarray(train.loss_mask).sum())
    assert [sample["line"] for sample in report["samples"]] == list(map(str, train.rows[:3]))
    assert "".join(part["text"] for part in report["samples"][0]["parts"]).startswith("<s>")
    assert job.prepare(**GENERATION, training__trainOn="All").prepared != payload.prepared


def test_conversations_come_as_parquet_too(job: Job) -> None:
    job.put("data/rows.parquet", parquet(rows(120)))
    as_lines = job.prepare(**GENERATION)
    as_columns = job.prepare(**GENERATION, dataset__train__uri="s3://BUCKET/data/rows.parquet")
    one, other = (load_prepared(job.store, payload.prepared, job.paths) for payload in (as_lines, as_columns))
    for name in ("train", "validation", "test"):
        for array in ("tokens", "offsets", "loss_mask", "rows"):
            assert np.array_equal(getattr(getattr(one, name), array), getattr(getattr(other, name), array))


def test_a_file_without_a_kind_of_row_names_the_columns(job: Job) -> None:
    job.put("data/train.jsonl", lines(*({"body": str(n)} for n in range(20))))
    failure = job.refused(**GENERATION)
    assert failure.reason == "ColumnsMissing"
    assert "'messages' and no 'completion' and no 'text'; it has body" in failure.message


def test_columns_that_the_model_does_not_see_are_told(job: Job) -> None:
    job.put("data/train.jsonl", lines(*({**row, "tools": [], "id": n} for n, row in enumerate(rows(120)))))
    report = json.loads(job.store.read(job.prepare(**GENERATION).report))
    assert report["unusedColumns"] == {"train": {"train.jsonl": ["id", "tools"]}}
    (note,) = [finding for finding in report["findings"] if finding["code"] == "ColumnsUnused"]
    assert "columns that are not used: tools." in note["message"]


def test_one_prompt_before_every_text_is_trained_on(job: Job) -> None:
    posts = ({"prompt": "Write a post.", "completion": f"Post {number}"} for number in range(120))
    job.put("data/train.jsonl", lines(*posts))
    payload = job.prepare(**GENERATION)
    assert payload.rows.model_dump() == {"train": 96, "validation": 12, "test": 12, "dropped": 0}


def test_bad_rows_are_listed(job: Job) -> None:
    job.put("data/train.jsonl", lines(*rows(30), {"messages": [{"role": "bot", "content": "x"}]}))
    failure = job.refused(**GENERATION)
    assert failure.reason == "TooManyBadRows"
    assert "line 31 message 1 of 'messages' has a role other than system" in failure.message


def test_rows_with_nothing_left_to_learn_fail_with_their_lines(job: Job) -> None:
    failure = job.refused(**GENERATION, training__maxLength=8)
    assert failure.reason == "NoTrainedTokens"
    assert "maxLength" in failure.message


def long_prefix(first: int, count: int) -> list[dict[str, Any]]:
    """Conversations whose answer lies beyond 32 tokens."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"{number} " + "word " * 200},
                {"role": "assistant", "content": "Yes."},
            ]
        }
        for number in range(first, first + count)
    ]


def test_a_conversation_whose_answer_is_cut_off_is_left_out_and_counted(job: Job) -> None:
    job.put("data/train.jsonl", lines(*rows(198), *long_prefix(0, 2)))
    settings = {**GENERATION, "training__maxLength": 32}
    payload = job.prepare(**settings)
    assert payload.rows.train + payload.rows.validation + payload.rows.test == 198
    assert payload.rows.dropped == 2
    assert payload.account is not None
    assert (payload.account.read, payload.account.left_out) == (200, {"NoTrainedTokens": 2})
    report = json.loads(job.store.read(payload.report))
    lost = [finding for finding in report["findings"] if finding["code"] == "NoTrainedTokens"]
    assert {finding["level"] for finding in lost} == {"warning"}
    assert sorted(line.split(":")[0] for finding in lost for line in finding["lines"]) == ["199", "200"]
    assert report["account"]["leftOut"] == {"NoTrainedTokens": 2}
    prepared = load_prepared(job.store, payload.prepared, job.paths)
    stored = [line for name in ("train", "validation", "test") for line in getattr(prepared, name).rows]
    assert sorted(stored) == list(range(1, 199))

    job.put("data/train.jsonl", lines(*rows(195), *long_prefix(0, 3), {"text": 5}, {"text": 6}))
    failure = job.refused(**settings, dataset__maxBadRowFraction=0.02)
    assert failure.reason == "NoTrainedTokens"
    assert "With all bad rows these are 5 of 200; dataset.maxBadRowFraction allows 2.00%" in failure.message


def test_a_classifier_is_no_language_model(job: Job, tiny_base: Path) -> None:
    for path in tiny_base.iterdir():
        job.put(f"model/{path.name}", path.read_bytes())
    failure = job.refused(**GENERATION)
    assert failure.reason == "ModelUnsupported"
    assert "language model head" in failure.message


def test_prepare_warns_of_experts_that_no_adapter_reaches(job: Job, tmp_path: Path) -> None:
    config, shapes = bases.mixture()
    bases.write(tmp_path, config, bases.weights(shapes))
    for path in filter(Path.is_file, tmp_path.iterdir()):
        job.put(f"model/{path.name}", path.read_bytes())
    payload = job.prepare(**GENERATION, method={"kind": "LoRA"})
    found = json.loads(job.store.read(payload.report))["findings"]
    (experts,) = [finding for finding in found if finding["code"] == "ExpertsNotAdapted"]
    assert experts["level"] == "warning"
    failure = job.refused(**GENERATION, method={"kind": "LoRA", "targetModules": ["gate_proj"]})
    assert failure.reason == "TargetModulesUnknown"

"""When a field may be changed: the marks, and what follows from them."""

import re
from pathlib import Path
from typing import Annotated

import pytest

from finetune_operator.api import FineTuneJobSpec
from finetune_operator.api.changes import (
    Change,
    Covered,
    UnmarkedFieldError,
    changes,
    frozen_rule,
    outside_digest,
)
from finetune_trainer.contract import Model

GUIDE = Path(__file__).parents[3] / "docs/user-guide.md"
TABLE = {"at any time": Change.ALWAYS, "until training starts": Change.UNTIL_TRAINING}


class Queue(Model):
    local_queue: Annotated[str, Change.UNTIL_TRAINING]
    priority_class: Annotated[str | None, Change.ALWAYS] = None


class Measured(Model):
    metrics: Annotated[list[str] | None, Covered.BY_THE_RUN] = None
    gate: float | None = None


class Spec(Model):
    evaluation: Annotated[Measured, Change.UNTIL_TRAINING] = Measured()
    queue: Queue | None = None
    suspend: Annotated[bool, Change.ALWAYS] = False


def test_each_field_has_the_mark_of_its_own_or_of_the_field_above() -> None:
    assert {field.path: field.change for field in changes(Spec)} == {
        "spec.evaluation": Change.UNTIL_TRAINING,
        "spec.queue.localQueue": Change.UNTIL_TRAINING,
        "spec.queue.priorityClass": Change.ALWAYS,
        "spec.suspend": Change.ALWAYS,
    }


def test_the_rule_keeps_all_but_the_fields_that_may_always_be_changed() -> None:
    made = frozen_rule(Spec)
    assert made["rule"] == (
        "!has(oldSelf.status) || !has(oldSelf.status.trainingStartTime)"
        " || (self.spec.evaluation == oldSelf.spec.evaluation"
        " && (has(self.spec.queue)) == (has(oldSelf.spec.queue))"
        " && (!(has(self.spec.queue)) || self.spec.queue.localQueue == oldSelf.spec.queue.localQueue))"
    )
    assert "only spec.queue.priorityClass and spec.suspend may be changed" in str(made["message"])


def test_the_digest_leaves_out_what_may_always_be_changed_and_what_the_run_holds() -> None:
    left_out = {"evaluation": {"metrics": True}, "queue": {"priority_class": True}, "suspend": True}
    assert outside_digest(Spec) == left_out


def test_a_field_without_a_mark_is_named() -> None:
    class Forgetful(Spec):
        nodes: int = 1

    class Deep(Spec):
        measured: Measured = Measured()

    with pytest.raises(UnmarkedFieldError, match=r"spec\.nodes has no mark: annotate Forgetful\.nodes"):
        frozen_rule(Forgetful)
    with pytest.raises(UnmarkedFieldError, match=r"spec\.measured\.metrics has no mark"):
        frozen_rule(Deep)


def test_the_user_guide_tells_when_each_field_may_be_changed() -> None:
    section = GUIDE.read_text().split("## What may change when\n")[1].split("\n## ")[0]
    told: dict[str, Change] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[1] in TABLE:
            told |= {f"spec.{field}": TABLE[cells[1]] for field in re.findall(r"`([^`]+)`", cells[0])}
    assert told == {field.path: field.change for field in changes(FineTuneJobSpec)}

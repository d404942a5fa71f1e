"""Golden cases: golden/<what it shows>/{job,observed,plan}.yaml. See golden/README.md.

`FINETUNE_REGENERATE=1 pytest tests/operator/planning/test_plan.py` writes each plan.yaml anew. Read the diff.
"""

import os
from pathlib import Path

import pytest

from finetune_operator.objects import Manifest
from finetune_operator.planning.plan import plan
from finetune_operator.planning.status import FINAL_STATES
from tests.operator.cases import (
    CASES,
    DEFAULTS,
    GOLDEN,
    all_expanded,
    default,
    merged,
    read_all,
    read_case,
    text_of,
)
from tests.operator.plan_text import diff, shown


@pytest.mark.parametrize("case", CASES)
def test_golden_case(case: str) -> None:
    folder = GOLDEN / case
    made = shown(read_case(folder).plan())
    expected = folder / "plan.yaml"
    if os.environ.get("FINETUNE_REGENERATE"):
        expected.write_text(text_of(made))
    if difference := diff(*read_all(expected), made):
        pytest.fail(f"{folder.name}: the plan is another.\n{difference}", pytrace=False)


@pytest.mark.parametrize("case", CASES)
def test_planning_again_with_the_status_written_decides_the_same(case: str) -> None:
    read = read_case(GOLDEN / case)

    first = read.plan()
    assert read.plan() == first

    job = read.job.model_copy(update={"status": first.status})
    again = plan(job, read.observed, read.settings, read.now)
    assert {r.name for r in first.delete} <= {r.name for r in again.delete} or again.delete == first.delete
    assert [a.model_dump() for a in again.status.attempts] == [a.model_dump() for a in first.status.attempts]
    if not first.create:
        assert again.status == first.status
        assert again.events == ()


@pytest.mark.parametrize("case", CASES)
def test_every_condition_and_event_says_something(case: str) -> None:
    made = read_case(GOLDEN / case).plan()

    assert [c.type for c in made.status.conditions if " " not in c.message] == []
    assert [e.reason for e in made.events if " " not in e.message] == []


@pytest.mark.parametrize("case", CASES)
def test_the_cause_of_an_end_stands_in_one_condition(case: str) -> None:
    """In `describe`: in the message, in Succeeded, and in the attempt that failed; the others point there."""
    status = read_case(GOLDEN / case).plan().status
    causes = [a.message for a in status.attempts if a.outcome == "Failed" and a.message]
    if status.state not in FINAL_STATES:
        return
    for condition in status.conditions:
        tells = [c for c in (*causes[-1:], status.message) if c and len(c) > 1 and c in condition.message]
        assert condition.type == "Succeeded" or not tells, condition


def test_there_are_enough_cases_to_call_the_behaviour_written_down() -> None:
    assert len(CASES) >= 40


def test_a_diff_shows_the_lines_of_the_plan_that_differ() -> None:
    found = diff({"state": "Training", "stage": "Train"}, {"state": "Failed", "stage": "Train"})
    assert found.splitlines()[-3:] == ["-state: Training", "+state: Failed", " stage: Train"]
    assert diff({"state": "Failed"}, {"state": "Failed"}) == ""


def test_a_case_may_hold_whole_objects_or_only_the_differences_from_a_default(tmp_path: Path) -> None:
    case = GOLDEN / "prepare-failed-by-user-data"
    (job,), (short,) = read_all(case / "job.yaml"), read_all(case / "observed.yaml")
    whole = {"kind": "List", "items": list(all_expanded(short["items"]))}

    (tmp_path / "job.yaml").write_text(text_of(*all_expanded([job])))
    (tmp_path / "observed.yaml").write_text(text_of(whole))
    in_a_list = read_case(tmp_path)
    (tmp_path / "observed.yaml").write_text(text_of(*whole["items"]))
    in_documents = read_case(tmp_path)

    assert in_a_list == in_documents == read_case(case)


def test_a_pod_has_the_metadata_and_spec_that_the_job_controller_gives() -> None:
    job = {"from": "train", "metadata": {"name": "t", "uid": "u"}}
    _, pod = all_expanded([job, {"kind": "Pod", "from": ["t", "running"], "metadata": {"name": "t-0-x"}}])

    assert pod["metadata"]["name"] == "t-0-x"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] == "u"
    assert pod["spec"] == default("train")["spec"]["template"]["spec"]
    assert pod["status"] == default("running")["status"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"a": None}, {"b": [{"name": "x", "v": 1}, {"name": "y"}]}),
        ({"b": [{"name": "y", "v": 2}]}, {"a": 1, "b": [{"name": "x", "v": 1}, {"name": "y", "v": 2}]}),
        ({"b": [{"name": "z"}]}, {"a": 1, "b": [{"name": "x", "v": 1}, {"name": "y"}, {"name": "z"}]}),
        ({"b": [{"name": "y"}, {"name": "x"}]}, {"a": 1, "b": [{"name": "y"}, {"name": "x", "v": 1}]}),
        ({"b": [3]}, {"a": 1, "b": [3]}),
    ],
)
def test_differences_are_merged_into_a_default(changes: Manifest, expected: Manifest) -> None:
    assert merged({"a": 1, "b": [{"name": "x", "v": 1}, {"name": "y"}]}, changes) == expected


def test_each_default_is_used() -> None:
    written = [document for case in CASES for document in read_all(GOLDEN / case / "observed.yaml")]
    items = [item for document in written for item in document.get("items", ())]
    items += [read_all(GOLDEN / case / "job.yaml")[0] for case in CASES]
    names = [each["from"] for each in items if "from" in each]
    used = {name for each in names for name in ([each] if isinstance(each, str) else each)}

    assert {path.stem for path in DEFAULTS.iterdir()} - used == {"namespace"}

"""The kept fields of an object: all that planning reads, none that a tenant can make large."""

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.names import KIND
from finetune_operator.objects import is_subset
from finetune_operator.planning.types import Observed
from finetune_operator.runtime.cluster import typed
from finetune_operator.runtime.transform import FIELDS
from tests.operator import scenes
from tests.operator.cases import CASES, GOLDEN, read_case

LARGE = "x" * 250_000


def kept(observed: Observed) -> Observed:
    return replace(
        observed,
        jobs=tuple(typed("Job", o) for o in observed.jobs),
        pods=tuple(typed("Pod", o) for o in observed.pods),
        services=tuple(typed("Service", o) for o in observed.services),
        network_policies=tuple(typed("NetworkPolicy", o) for o in observed.network_policies),
        events=tuple(typed("Event", o) for o in observed.events),
    )


@pytest.mark.parametrize("case", CASES)
def test_planning_reads_no_field_that_is_dropped(case: str) -> None:
    read = read_case(GOLDEN / case)

    made = read.plan()

    assert replace(read, observed=kept(read.observed)).plan() == made
    for manifest in made.apply:  # what is compared with what is there
        assert is_subset(manifest, typed(manifest["kind"], manifest))


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_that_a_tenant_can_make_large_are_dropped(kind: str) -> None:
    metadata: dict[str, Any] = {
        "name": "n",
        "labels": {"theirs": "a", "finetune.dev/job-uid": "b", "finetune.dev/theirs": "c"},
        "annotations": {"theirs": LARGE, "finetune.dev/theirs": LARGE},
        "managedFields": [{"manager": LARGE}],
        "finalizers": [LARGE],
    }
    pod = {"metadata": metadata, "spec": {"containers": [{"name": "c", "args": [LARGE]}]}}
    spec = {} if kind in {KIND, "Service", "NetworkPolicy"} else pod["spec"] | {"template": pod}

    found = typed(kind, {"metadata": metadata, "spec": spec})

    assert len(str(found)) < 1000
    assert found["metadata"].get("labels", {}).keys() <= {"finetune.dev/job-uid"}
    assert not found["metadata"].get("annotations")


def test_a_finetunejob_keeps_its_whole_spec_and_status() -> None:
    document = scenes.BASE | {"status": {"attempts": [{"job": "a", "number": 1}], "unknown": [None, 1.5]}}
    assert typed(KIND, document) == document


def test_equal_strings_of_many_objects_are_stored_once() -> None:
    text = '{"spec": {"task": "TextClassification"}}'
    one, other = (typed(KIND, json.loads(text))["spec"] for _ in range(2))
    ((key, value),), ((same_key, same_value),) = one.items(), other.items()
    assert key is same_key
    assert value is same_value

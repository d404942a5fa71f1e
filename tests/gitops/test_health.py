"""The health of a FineTuneJob as GitOps tools see it: kstatus, the Lua of Argo CD and the CEL of Flux.

The program `health` (devcluster/go/health) runs the libraries of the tools. The objects are the plans of all
golden cases. docs/gitops.md has the same table.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries
from finetune_operator.api import FineTuneJob
from finetune_operator.names import State
from finetune_operator.planning.plan import plan
from finetune_operator.runtime.reconciler import dumped
from tests.operator.cases import CASES, GOLDEN, Case, read_case

DOCS = Path(__file__).parents[2] / "docs"
ARGO_CD = yaml.safe_load((DOCS / "gitops/argocd-cm.yaml").read_text())
FLUX = yaml.safe_load((DOCS / "gitops/flux.yaml").read_text())
LUA = "resource.customizations.health.finetune.dev_FineTuneJob"
IN_PROGRESS = {"kstatus": "InProgress", "argocd": "Progressing", "flux": "InProgress"}
EXPECTED: dict[str | None, dict[str, str]] = {
    None: IN_PROGRESS,
    State.PENDING: IN_PROGRESS,
    State.PREPARING: IN_PROGRESS,
    State.TRAINING: IN_PROGRESS,
    State.PUBLISHING: IN_PROGRESS,
    State.WAITING: IN_PROGRESS,
    State.SUSPENDED: IN_PROGRESS | {"argocd": "Suspended"},
    State.SUCCEEDED: {"kstatus": "Current", "argocd": "Healthy", "flux": "Current"},
    State.FAILED: {"kstatus": "Failed", "argocd": "Degraded", "flux": "Failed"},
    State.GATE_FAILED: {"kstatus": "Failed", "argocd": "Degraded", "flux": "Failed"},
}


def as_stored(job: FineTuneJob, status: dict[str, Any]) -> dict[str, Any]:
    """A FineTuneJob as the API server returns it after the operator has written a status."""
    stored: dict[str, Any] = job.model_dump(mode="json", by_alias=True, exclude_none=True)
    return stored | {"status": status}


def planned(case: Case) -> dict[str, Any]:
    return as_stored(case.job, dumped(case.plan().status))


def asked(*objects: dict[str, Any]) -> list[dict[str, dict[str, str]]]:
    """What kstatus, Argo CD and Flux say about each object: status and message."""
    (cel,) = FLUX["spec"]["healthCheckExprs"]
    request = {"lua": ARGO_CD["data"][LUA], "cel": cel, "objects": objects}
    done = subprocess.run(
        [binaries.path("health")], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, dict[str, str]]] = json.loads(done.stdout)
    return found


def health(*objects: dict[str, Any]) -> list[dict[str, str]]:
    """The status of each object for kstatus, Argo CD and Flux."""
    return [{tool: seen["status"] for tool, seen in found.items()} for found in asked(*objects)]


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    """The FineTuneJob of each golden case, with the status that the plan of the case writes."""
    return {case: planned(read_case(GOLDEN / case)) for case in CASES}


def test_each_state_has_one_health_in_every_golden_case(cases: dict[str, dict[str, Any]]) -> None:
    # The cases without conditions are deleted jobs and finished jobs of earlier operators.
    written = {name: job for name, job in cases.items() if has_condition(job, "Ready")}
    assert {job["status"]["state"] for job in written.values()} == set(State)
    seen = dict(zip(written, health(*written.values()), strict=True))
    assert seen == {name: EXPECTED[job["status"]["state"]] for name, job in written.items()}


def has_condition(job: dict[str, Any], kind: str) -> bool:
    return any(condition["type"] == kind for condition in job["status"].get("conditions", ()))


@pytest.mark.parametrize("status", [{"observedGeneration": 0}, {"observedGeneration": 0, "conditions": []}])
def test_a_job_that_no_operator_has_seen_is_in_progress(status: dict[str, Any]) -> None:
    job = as_stored(read_case(GOLDEN / "new-job").job, status)
    assert health(job) == [IN_PROGRESS]


@pytest.mark.parametrize("case", ["publish-succeeded-ends-the-job", "retries-exhausted"])
def test_a_finished_job_with_a_newer_spec_is_in_progress(case: str, cases: dict[str, dict[str, Any]]) -> None:
    job = cases[case]
    assert health(job) == [EXPECTED[job["status"]["state"]]]
    newer = job | {"metadata": job["metadata"] | {"generation": job["metadata"]["generation"] + 1}}
    assert health(newer) == [IN_PROGRESS]


def test_a_finished_job_keeps_its_health_after_an_edit_that_starts_nothing() -> None:
    case = read_case(GOLDEN / "publish-succeeded-ends-the-job")
    ended = FineTuneJob.model_validate(planned(case))
    ended.metadata["generation"] += 1
    again = plan(ended, case.observed, case.settings, case.now)
    assert health(as_stored(ended, dumped(again.status))) == [EXPECTED[State.SUCCEEDED]]


def test_a_job_in_deletion_is_terminating_for_kstatus(cases: dict[str, dict[str, Any]]) -> None:
    job = cases["train-running-with-progress"]
    deleted = job | {"metadata": job["metadata"] | {"deletionTimestamp": "2026-01-01T12:00:00Z"}}
    (seen,) = health(deleted)
    assert seen["kstatus"] == "Terminating"


def test_a_job_that_ended_under_an_earlier_operator_has_its_health_in_argo_cd_and_flux(
    cases: dict[str, dict[str, Any]],
) -> None:
    job = cases["retries-exhausted"]
    old = [c for c in job["status"]["conditions"] if c["type"] not in ("Ready", "Stalled")]
    (seen,) = health(job | {"status": job["status"] | {"conditions": old}})
    assert seen == EXPECTED[State.FAILED] | {"kstatus": "Current"}


def test_argo_cd_shows_the_message_of_the_job(cases: dict[str, dict[str, Any]]) -> None:
    job = cases["prepare-failed-by-user-data"]
    (seen,) = asked(job)
    assert seen["argocd"]["message"] == job["status"]["message"]
    assert seen["kstatus"]["message"] == "The job has failed."


def test_a_script_that_fails_is_reported() -> None:
    (cel,) = FLUX["spec"]["healthCheckExprs"]
    request = {"lua": "return obj.status.none.none", "cel": cel, "objects": [{"kind": "FineTuneJob"}]}
    done = subprocess.run(
        [binaries.path("health")], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Flux" in done.stderr or "Argo CD" in done.stderr


def test_the_page_has_the_table_of_these_tests() -> None:
    page = (DOCS / "gitops.md").read_text()
    rows = [re.findall(r"`(\w+)`", line) for line in page.splitlines() if line.startswith("| `")]
    shown = {
        state: dict(zip(("kstatus", "argocd", "flux"), row[-3:], strict=True))
        for row in rows
        for state in row[:-3]
    }
    assert shown == {state: seen for state, seen in EXPECTED.items() if state}

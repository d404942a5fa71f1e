"""Notifications of a job: which events, for which targets, and what the CloudEvent of each event says."""

from typing import Any

import pytest

from finetune_operator.api import FineTuneJob, FineTuneJobStatus, NotificationStatus
from finetune_operator.planning.cloud_events import cloud_event, pending
from finetune_operator.planning.notifications import MAX_LISTED, announce, check, settle
from finetune_operator.planning.plan import plan
from finetune_operator.planning.types import DeliveryResult, Observed
from finetune_operator.settings import Settings
from tests.operator import scenes

NOW = scenes.NOW
UID = scenes.UID
CRM: dict[str, Any] = {"url": "https://crm.example/hooks", "secretName": "crm"}
ASK = (
    "notification target 'crm'. Leave out spec.notifications, or ask the admin of the operator for a target."
)


def settings(**targets: Any) -> Settings:
    """Settings with these notification targets, or with the target crm."""
    return scenes.settings({"notifications": {"targets": targets or {"crm": CRM}}})


def job(status: dict[str, Any] | None = None, **spec: Any) -> FineTuneJob:
    """A FineTuneJob that names the target crm."""
    wanted = {"notifications": [{"target": "crm"}], **spec}
    return scenes.job_of({"spec": wanted} | ({"status": status} if status else {}))


def condition(kind: str, status: str, reason: str = "Completed", message: str = "Done.") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": NOW.isoformat(),
    }


def end(state: str, **fields: Any) -> dict[str, Any]:
    """The status of a job that has ended."""
    summary = condition("Succeeded", str(state == "Succeeded"), "Completed", "The end.")
    return {
        "state": state,
        "startTime": "2026-01-01T11:00:00Z",
        "completionTime": "2026-01-01T12:00:00Z",
        "conditions": [summary],
        **fields,
    }


def recorded(
    before: FineTuneJob,
    after: FineTuneJobStatus,
    configured: Settings | None = None,
    *results: DeliveryResult,
) -> list[NotificationStatus]:
    stored = settle(before, before.status or FineTuneJobStatus(), results, configured or settings())
    written = after.model_copy(update={"notifications": stored.notifications})
    return announce(before, written, configured or settings(), NOW).notifications or []


def status(document: dict[str, Any]) -> FineTuneJobStatus:
    found = job(document).status
    assert found
    return found


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        (None, {"startTime": "2026-01-01T12:00:00Z"}, ["started"]),
        ({"startTime": "2026-01-01T12:00:00Z"}, {"startTime": "2026-01-01T12:00:00Z"}, []),
        (
            {"attempts": [{"stage": "Train", "number": 2}]},
            {"attempts": [{"stage": "Train", "number": 2, "outcome": "Failed"}]},
            ["train-2-failed"],
        ),
        (
            {"attempts": [{"stage": "Train", "number": 2, "outcome": "Failed"}]},
            {"attempts": [{"stage": "Train", "number": 2, "outcome": "Failed"}]},
            [],
        ),
        (
            {"attempts": [{"stage": "Train"}]},
            {"attempts": [{"stage": "Train", "outcome": "Suspended"}]},
            [],
        ),
        (
            {"conditions": [condition("GatePassed", "Unknown")]},
            {"conditions": [condition("GatePassed", "True")]},
            ["1-gatepassed"],
        ),
        ({"startTime": "2026-01-01T11:00:00Z"}, end("Succeeded"), ["1-succeeded"]),
        ({"startTime": "2026-01-01T11:00:00Z"}, end("Failed"), ["1-failed"]),
        ({"startTime": "2026-01-01T11:00:00Z"}, end("GateFailed"), ["1-gatefailed"]),
        (end("Failed"), end("Failed"), []),
    ],
)
def test_an_event_is_found_once_between_two_statuses(
    before: dict[str, Any] | None, after: dict[str, Any], events: list[str]
) -> None:
    found = recorded(job(before), status(after))
    assert [entry.id for entry in found] == [f"{UID}-{event}" for event in events]
    assert {entry.state for entry in found} <= {"Pending"}
    assert all(entry.time == NOW for entry in found)


def test_a_job_and_the_settings_choose_events_and_targets() -> None:
    configured = settings(
        crm=CRM,
        pager=CRM | {"events": ["Failed"], "allJobs": True, "allowedNamespaces": ["demo"]},
        elsewhere=CRM | {"allJobs": True, "allowedNamespaces": ["other"]},
        quiet=CRM,
    )
    named = [{"target": "crm", "events": ["Started", "Succeeded"]}]

    def targets(state: str) -> list[str]:
        return [entry.target for entry in recorded(job(notifications=named), status(end(state)), configured)]

    assert targets("Succeeded") == ["crm", "crm"]  # Started, Succeeded
    assert targets("Failed") == ["crm", "pager"]  # Started, Failed
    both = [{"target": "pager"}]
    found = recorded(job(notifications=both), status(end("Failed")), configured)
    assert [(entry.event.value, entry.target) for entry in found] == [("Failed", "pager")]


def test_a_job_without_notifications_has_none_in_its_status() -> None:
    silent = scenes.job_of()
    assert announce(silent, status(end("Succeeded")), settings(), NOW).notifications is None


@pytest.mark.parametrize(
    ("targets", "reason", "message"),
    [
        (
            {"pager": CRM},
            "NotificationTargetUnknown",
            "spec.notifications[0].target: there is no notification target 'crm'. Name one of these: pager.",
        ),
        (
            {"crm": CRM | {"allowedNamespaces": ["prod-*"]}},
            "NotificationTargetForbidden",
            f"spec.notifications[0].target: jobs of namespace demo may not use {ASK}",
        ),
    ],
)
def test_a_target_that_a_job_may_not_use_fails_the_job_before_its_first_attempt(
    targets: dict[str, Any], reason: str, message: str
) -> None:
    refusal = check(job(), settings(**targets))
    assert refusal
    assert (refusal.reason, refusal.message) == (reason, message)
    made = plan(job(), Observed(namespace_uid=scenes.NAMESPACE_UID), settings(**targets), NOW)
    assert (made.status.state, made.create) == ("Failed", ())
    assert made.status.message == message


def test_a_target_that_goes_away_later_never_stops_the_job() -> None:
    configured = settings(pager=CRM)
    running = job({"reached": "Prepare", "attempts": [{"stage": "Prepare", "outcome": "Succeeded"}]})
    observed = scenes.observed_of(running, {}, configured)
    made = plan(running, observed, configured, NOW)
    assert made.status.state != "Failed"
    assert [manifest["kind"] for manifest in made.create] == ["Job"]
    (entry,) = recorded(running, status(end("Failed")), configured)[1:]
    assert (entry.event.value, entry.state) == ("Failed", "Failed")
    assert entry.message == "The operator's settings have no such notification target for this namespace."


def entry_of(number: int, state: str = "Pending") -> dict[str, Any]:
    return {
        "id": f"{UID}-{number}",
        "target": "crm",
        "event": "AttemptFailed",
        "time": "2026-01-01T11:00:00Z",
        "state": state,
    }


def test_results_settle_pending_notifications_and_others_stay() -> None:
    before = job({"notifications": [entry_of(1), entry_of(2), entry_of(3), entry_of(4, "Delivered")]})
    assert before.status
    results = (
        DeliveryResult(f"{UID}-1", "crm"),
        DeliveryResult(f"{UID}-2", "crm", "x" * 500),
        DeliveryResult(f"{UID}-4", "crm", "too late"),
    )
    found = recorded(before, before.status, None, *results)
    assert [entry.state for entry in found] == ["Delivered", "Failed", "Pending", "Delivered"]
    assert found[1].message == "x" * 256
    gone = recorded(before, before.status, settings(pager=CRM))
    assert [entry.state for entry in gone] == ["Failed", "Failed", "Failed", "Delivered"]


def test_the_list_is_bounded_and_drops_the_oldest_that_have_ended() -> None:
    states = ["Pending", "Delivered", "Failed", *["Pending"] * (MAX_LISTED - 3)]
    before = job({"notifications": [entry_of(n, state) for n, state in enumerate(states)]})
    found = recorded(before, status(end("Succeeded", startTime=None)))
    assert len(found) == MAX_LISTED
    assert found[0].id == f"{UID}-0"
    assert [entry.id for entry in found].count(f"{UID}-1") == 0
    assert found[-1].id == f"{UID}-1-succeeded"


def test_an_event_that_the_status_lists_is_not_listed_again() -> None:
    """The API server refuses a status that lists an id and a target twice."""
    listed = entry_of(1, "Delivered") | {"id": f"{UID}-1-gatepassed", "event": "GatePassed"}
    before = job({"notifications": [listed], "conditions": [condition("GatePassed", "Unknown")]})
    found = recorded(before, status({"conditions": [condition("GatePassed", "True")]}))
    assert [(entry.id, entry.state) for entry in found] == [(f"{UID}-1-gatepassed", "Delivered")]


def event_of(document: dict[str, Any], event: str) -> dict[str, Any]:
    ended = job(document)
    assert ended.status
    entries = recorded(job(), ended.status)
    (entry,) = [entry for entry in entries if entry.event.value == event]
    return cloud_event(ended, ended.status, entry)


def test_the_event_of_a_success_has_the_figures_the_gate_and_the_report() -> None:
    conditions = [
        condition("Succeeded", "True", "Completed", "The model is published."),
        condition("GatePassed", "True", "GatePassed", "The gate is passed: macroF1 0.8."),
    ]
    found = event_of(end("Succeeded", reached="Publish", conditions=conditions), "Succeeded")
    data = found.pop("data")
    assert found == {
        "specversion": "1.0",
        "id": f"{UID}-1-succeeded",
        "type": "dev.finetune.job.succeeded.v1",
        "source": "/namespaces/demo/finetunejobs/tickets",
        "subject": "demo/tickets",
        "time": "2026-01-01T12:00:00Z",
        "datacontenttype": "application/json",
    }
    assert data.pop("model")["uri"].startswith("s3://models/support/")
    assert data.pop("report").endswith("report.html")
    assert data == {
        "event": "Succeeded",
        "namespace": "demo",
        "name": "tickets",
        "uid": UID,
        "task": "TextClassification",
        "phase": "Succeeded",
        "reason": "Completed",
        "message": "The model is published.",
        "startTime": "2026-01-01T11:00:00Z",
        "completionTime": "2026-01-01T12:00:00Z",
        "attempts": 0,
        "metric": {"name": "macroF1", "baseline": 0.72, "tuned": 0.8, "delta": 0.08},
        "gate": {"passed": True, "message": "The gate is passed: macroF1 0.8."},
    }


def test_the_event_of_a_failed_attempt_names_the_attempt_and_its_cause() -> None:
    failed = {"outcome": "Failed", "class": "Hang", "reason": "NoHeartbeat", "message": "No heartbeat."}
    attempts = [
        {"stage": "Prepare", "number": 1, "outcome": "Succeeded"},
        {"stage": "Train", "number": 1, **failed},
        {"stage": "Train", "number": 2},
    ]
    assert event_of({"attempts": attempts}, "AttemptFailed")["data"]["attempt"] == {
        "stage": "Train",
        "number": 1,
        "class": "Hang",
        "reason": "NoHeartbeat",
        "message": "No heartbeat.",
    }


def test_the_content_of_an_event_does_not_change_with_the_later_status() -> None:
    """Before and after a restart of the operator, a target gets the same bytes for the same id."""
    failed = [{"stage": "Train", "outcome": "Failed", "class": "Hang", "reason": "NoHeartbeat"}]
    early = job({"startTime": "2026-01-01T12:00:00Z", "attempts": failed})
    assert early.status
    first = announce(job(), early.status, settings(), NOW)
    listed = first.model_dump(mode="json", by_alias=True, exclude_none=True)["notifications"]
    later = job(end("Failed", attempts=failed, notifications=listed))
    assert later.status
    second = announce(early, later.status, settings(), NOW)
    before = {each.id: each.body for each in pending(early, first)}
    after = {each.id: each.body for each in pending(later, second)}
    assert len(before) == 2
    assert len(after) == 3
    assert before.items() <= after.items()


def test_only_pending_notifications_are_delivered() -> None:
    before = job({"notifications": [entry_of(1), entry_of(2, "Delivered"), entry_of(3, "Failed")]})
    assert before.status
    assert [each.id for each in pending(before, before.status)] == [f"{UID}-1"]


def test_a_finished_job_with_a_ttl_is_deleted_only_after_its_notifications_are_delivered() -> None:
    ttl = {"podsAfterFinished": "0s", "afterFinished": "0s"}
    finished = condition("Finished", "True")
    listed = [entry_of(1), entry_of(2, "Delivered")]
    over = job(end("Succeeded", conditions=[finished], notifications=listed), ttl=ttl)

    def deleted(*results: DeliveryResult) -> list[str]:
        made = plan(over, Observed(deliveries=results), settings(), NOW)
        return [reference.kind for reference in made.delete]

    assert deleted() == []
    assert deleted(DeliveryResult(f"{UID}-1", "crm", "The target answered 500.")) == ["FineTuneJob"]

"""The check of an installation, with answers that a test gives; tests/chart has a real API server."""

import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, Info

from devcluster.controlplane import free_ports
from finetune_operator import installation_check
from finetune_operator.installation_check import CheckFailedError, Installation, passes
from finetune_operator.objects import Manifest
from finetune_operator.runtime.api_client import MissingError, RefusedError, Transport
from finetune_operator.runtime.endpoints import serve
from finetune_operator.runtime.serving_certificate import ServingCertificate


class Answers:
    """A transport that gives the next answer for each request of a verb and kind; an exception is raised."""

    def __init__(self, **answers: Iterable[Any]) -> None:
        self.answers = {verb: iter(each) for verb, each in answers.items()}
        self.requests: list[tuple[str, dict[str, str]]] = []

    async def request(self, verb: str, kind: str, *_: str, **more: Any) -> Manifest:
        self.requests.append((f"{verb} {kind}", more.get("query", {})))
        answer = next(self.answers[verb])
        if isinstance(answer, Exception):
            raise answer
        return cast("Manifest", answer)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation_check, "RETRY_SECONDS", 0)
    monkeypatch.setattr(installation_check, "JOB_POLL_SECONDS", 0)


def installation(answers: Answers) -> Installation:
    return Installation(cast("Transport", answers), "finetune-system", "finetune-operator", "team-a")


def job(**conditions: str) -> Manifest:
    listed = [{"type": kind, "status": status} for kind, status in conditions.items()]
    return {"status": {"state": "Training", "message": "step 3", "conditions": listed}}


def lease(**spec: Any) -> Manifest:
    return {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 0.2, "renewTime": "1"} | spec}


async def test_a_job_that_succeeds_is_deleted() -> None:
    ended = job(Finished="True", Succeeded="True")
    answers = Answers(create=[{}], get=[job(), job(Finished="False"), ended], delete=[{}])
    assert "has succeeded" in await installation(answers).job({}, 60)
    sent = [what for what, _ in answers.requests]
    assert sent == [
        "create FineTuneJob",
        *["get FineTuneJob"] * 3,
        "delete FineTuneJob",
    ]
    assert "dryRun" not in answers.requests[0][1]


async def test_a_job_that_fails_stays_and_is_reported() -> None:
    answers = Answers(create=[{}], get=[job(Finished="True", Succeeded="False")])
    with pytest.raises(CheckFailedError, match="did not succeed: Training, step 3"):
        await installation(answers).job({}, 60)


async def test_a_lease_that_is_renewed_counts_whatever_the_time_in_it() -> None:
    answers = Answers(get=[lease(), lease(), lease(renewTime="0")])
    assert "a leads" in await installation(answers).leader()


async def test_a_lease_that_is_not_renewed_does_not_count() -> None:
    with pytest.raises(CheckFailedError, match="a has not renewed the Lease finetune-operator"):
        await installation(Answers(get=itertools.repeat(lease()))).leader()


async def test_a_lease_without_a_holder_does_not_count() -> None:
    with pytest.raises(CheckFailedError, match="no replica holds the Lease"):
        await installation(Answers(get=[lease(holderIdentity="")])).leader()


async def test_only_dry_runs_are_sent_without_a_job() -> None:
    refusal = RefusedError("spec.task: Unsupported value")
    answers = Answers(create=[{}, refusal, RefusedError("ValidatingAdmissionPolicy denied request")])
    checked = installation(answers)
    await checked.accepts()
    await checked.refuses_invalid()
    await checked.refuses_secret()
    assert all(query["dryRun"] == "All" for _, query in answers.requests)


async def test_a_refusal_for_another_cause_does_not_pass() -> None:
    refusal = RefusedError("user cannot create resource finetunejobs")
    with pytest.raises(RefusedError):
        await installation(Answers(create=[refusal])).refuses_secret()
    with pytest.raises(CheckFailedError, match="the API server accepts"):
        await installation(Answers(create=[{}])).refuses_secret()


async def test_a_check_is_tried_until_it_passes() -> None:
    answers = Answers(create=[MissingError("not served yet"), {}])
    assert await passes("accepted", installation(answers).accepts, 60)
    assert len(answers.requests) == 2


async def test_a_check_that_never_passes_fails() -> None:
    answers = Answers(create=[MissingError("not served")] * 100_000)
    assert not await passes("accepted", installation(answers).accepts, 0.05)


@asynccontextmanager
async def operator_metrics(decision: HTTPStatus, tmp_path: Path) -> AsyncIterator[str]:
    """The address of metrics that are served over TLS, with the same decision about each request."""

    async def decide(_: str) -> HTTPStatus:
        return decision

    registry = CollectorRegistry()
    Info("finetune_operator_build", "Versions.", registry=registry).info({"version": "1"})
    port, health_port = free_ports(2)
    context = ServingCertificate(tmp_path / "no files").context
    async with serve(registry, port, health_port, lambda: None, tls=context, decide=decide):
        yield f"https://127.0.0.1:{port}/metrics"


async def test_metrics_with_a_self_signed_certificate_are_read(tmp_path: Path) -> None:
    async with operator_metrics(HTTPStatus.OK, tmp_path) as url:
        message = await installation(Answers()).metrics(url, need_token=False)
    assert message == f"{url} serves the metrics"


async def test_metrics_that_need_a_token_must_refuse_a_request_without_a_token(tmp_path: Path) -> None:
    check = installation(Answers())
    async with operator_metrics(HTTPStatus.UNAUTHORIZED, tmp_path) as url:
        assert "requests with a token" in await check.metrics(url, need_token=True)
        with pytest.raises(CheckFailedError, match="status 401"):
            await check.metrics(url, need_token=False)
    async with operator_metrics(HTTPStatus.OK, tmp_path) as url:
        with pytest.raises(CheckFailedError, match=r"does not ask for a token \(HTTP status 200\)"):
            await check.metrics(url, need_token=True)

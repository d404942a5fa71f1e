"""`python -m finetune_operator.installation_check`: checks an installation. `helm test` runs this in a pod.

The checks send requests that the API server does not store (dry run). Only the job check (`--job`) creates a
FineTuneJob. Each check is tried until it passes or `--wait-seconds` have passed: after an installation it
takes some seconds until a replica leads and the admission policies are in force.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from finetune_operator.names import API_VERSION, KIND, PLURAL, Condition
from finetune_operator.objects import Manifest, condition_true
from finetune_operator.runtime import logs
from finetune_operator.runtime.api_client import (
    CONNECT_SECONDS,
    REQUEST_SECONDS,
    ApiError,
    RefusedError,
    Transport,
    connect,
    open_session,
)
from finetune_operator.runtime.server_clock import ServerClock

RETRY_SECONDS = 1.0
JOB_POLL_SECONDS = 5.0
POLICY = "ValidatingAdmissionPolicy"
"""The word by which a refusal of an admission policy differs from other refusals."""
METRIC = "finetune_operator_build_info"
"""A metric that every replica has."""
log = logging.getLogger("finetune_operator.installation_check")


class CheckFailedError(Exception):
    """The installation does not do what a check expects; the message says what to look at."""


@dataclass(frozen=True)
class Installation:
    """The installation that is checked."""

    transport: Transport
    operator_namespace: str
    lease: str
    """Name of the Lease of the leader."""
    namespace: str
    """Namespace in which the checks write FineTuneJobs."""

    async def definition(self) -> str:
        """The API server serves FineTuneJobs."""
        path = f"/apis/{API_VERSION}"
        async with open_session(self.transport.api) as session:
            status, text = await _get(session, f"{self.transport.api.configuration.host}{path}")
        served = {item["name"] for item in json.loads(text)["resources"]} if status == 200 else set()  # noqa: PLR2004 - OK
        if PLURAL not in served:
            raise CheckFailedError(
                f"{path} has no {PLURAL} (HTTP status {status}): is the CustomResourceDefinition installed?"
            )
        return f"the API server serves {PLURAL} of {API_VERSION}"

    async def leader(self) -> str:
        """A replica leads and renews the Lease.

        The check waits for a renewal instead of reading its time, because the clocks of two machines differ.
        """
        first = await self._lease()
        holder = first.get("holderIdentity")
        if not holder:
            raise CheckFailedError(f"no replica holds the Lease {self.lease}")
        seconds = float(first["leaseDurationSeconds"])
        deadline = time.monotonic() + seconds
        while (now := await self._lease()).get("renewTime") == first.get("renewTime"):
            if time.monotonic() > deadline:
                raise CheckFailedError(f"{holder} has not renewed the Lease {self.lease} for {seconds:.0f} s")
            await asyncio.sleep(RETRY_SECONDS)
        return f"{now.get('holderIdentity')} leads and renews the Lease {self.lease}"

    async def metrics(self, url: str, *, need_token: bool) -> str:
        """The operator serves its metrics; with `need_token`, only to requests with a token.

        The check sends no token and does not verify the certificate, which may be self-signed.
        """
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
            status, text = await _get(session, url)
        if need_token:
            if status != 401:  # noqa: PLR2004 - unauthorized
                raise CheckFailedError(f"{url} does not ask for a token (HTTP status {status})")
            return f"{url} serves the metrics to requests with a token"
        if status != 200 or METRIC not in text:  # noqa: PLR2004 - OK
            raise CheckFailedError(f"{url} does not serve the metric {METRIC} (HTTP status {status})")
        return f"{url} serves the metrics"

    async def accepts(self) -> str:
        """The API server accepts a valid FineTuneJob."""
        await self._create(_job(), dry_run=True)
        return f"a FineTuneJob in namespace {self.namespace} is accepted"

    async def refuses_invalid(self) -> str:
        """The API server refuses a FineTuneJob that the schema forbids."""
        return await self._refusal(_job(task="Unknown"), "spec.task", "a FineTuneJob with an unknown task")

    async def refuses_secret(self) -> str:
        """The admission policy refuses a Secret that the author, which is this account, may not get."""
        storage = _job()["storage"] | {"secretRef": {"name": "installation-check"}}
        what = "a FineTuneJob with a Secret that its author may not read"
        return await self._refusal(_job(storage=storage), POLICY, what)

    async def job(self, spec: dict[str, Any], seconds: float) -> str:
        """The operator runs a FineTuneJob to its end. A FineTuneJob that succeeded is deleted.

        Args:
            spec: `spec` of the FineTuneJob.
            seconds: longest wait for the end.

        Raises:
            CheckFailedError: the FineTuneJob did not succeed. The FineTuneJob stays.
        """
        name = f"installation-check-{uuid.uuid4().hex[:6]}"
        await self._create(spec, name=name)
        log.info("created the FineTuneJob %s in namespace %s", name, self.namespace)
        deadline = time.monotonic() + seconds
        while not condition_true(job := await self._read(name), Condition.FINISHED):
            if time.monotonic() > deadline:
                raise CheckFailedError(f"{name} has not finished after {seconds:.0f} s: {_summary(job)}")
            await asyncio.sleep(JOB_POLL_SECONDS)
        if not condition_true(job, Condition.SUCCEEDED):
            raise CheckFailedError(f"{name} did not succeed: {_summary(job)}")
        await self.transport.request("delete", KIND, self.namespace, name)
        return f"{name} has succeeded: {_summary(job)}"

    async def _refusal(self, spec: dict[str, Any], expected: str, what: str) -> str:
        try:
            await self._create(spec, dry_run=True)
        except RefusedError as error:
            if expected in str(error):
                return f"{what} is refused"
            raise
        raise CheckFailedError(f"the API server accepts {what}")

    async def _create(
        self, spec: dict[str, Any], *, name: str = "installation-check", dry_run: bool = False
    ) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        await self.transport.request("create", KIND, self.namespace, query=query, body=body)

    async def _read(self, name: str) -> Manifest:
        return await self.transport.request("get", KIND, self.namespace, name)

    async def _lease(self) -> Manifest:
        lease = await self.transport.request("get", "Lease", self.operator_namespace, self.lease)
        spec: Manifest = lease["spec"]
        return spec


def _summary(job: Manifest) -> str:
    status = job.get("status", {})
    return f"{status.get('state', 'no state')}, {status.get('message', 'no message')}"


def _job(**changes: Any) -> dict[str, Any]:
    """The spec of a valid FineTuneJob. Only the operator would refuse its store, whose name no store has."""
    return {
        "task": "TextClassification",
        "model": {"uri": "s3://installation-check/model"},
        "dataset": {"train": {"uri": "s3://installation-check/train.jsonl"}},
        "output": {"uri": "s3://installation-check/tuned/"},
        "storage": {"store": "installation-check"},
    } | changes


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
    try:
        async with session.get(url, timeout=timeout) as response:
            return response.status, await response.text()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise CheckFailedError(f"{url} cannot be read: {str(error) or type(error).__name__}") from None


async def passes(name: str, check: Callable[[], Awaitable[str]], seconds: float) -> bool:
    """Tries a check until it passes, for at most so many seconds, and logs the result."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            log.info("%s: passed: %s", name, await check())
        except (CheckFailedError, ApiError) as error:
            if time.monotonic() + RETRY_SECONDS > deadline:
                log.error("%s: failed: %s", name, error)  # noqa: TRY400 - expected, no traceback
                return False
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return True


async def main(arguments: argparse.Namespace) -> bool:
    """Runs all checks; returns whether all have passed."""
    api = await connect()
    try:
        transport = Transport(api, lambda: REQUEST_SECONDS, ServerClock())
        installation = Installation(
            transport, arguments.operator_namespace, arguments.lease, arguments.namespace
        )
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "definition": installation.definition,
            "leader": installation.leader,
            "accepted": installation.accepts,
            "refused": installation.refuses_invalid,
        }
        if arguments.metrics_url:
            checks["metrics"] = lambda: installation.metrics(
                arguments.metrics_url, need_token=arguments.metrics_need_token
            )
        if arguments.admission_policy:
            checks["admission policy"] = installation.refuses_secret
        passed = [await passes(name, check, arguments.wait_seconds) for name, check in checks.items()]
        if arguments.job and all(passed):
            run = lambda: installation.job(arguments.job, arguments.job_seconds)  # noqa: E731 - as above
            passed.append(await passes("job", run, 0))
    finally:
        await api.close()  # type: ignore[no-untyped-call]
    return all(passed)


def run() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="installation-check", description=__doc__)
    parser.add_argument("--operator-namespace", required=True, help="namespace of the operator")
    parser.add_argument("--lease", required=True, help="name of the Lease of the leader")
    parser.add_argument("--namespace", required=True, help="namespace for FineTuneJobs")
    parser.add_argument("--metrics-url", help="address of the metrics of the operator; default: not checked")
    parser.add_argument(
        "--metrics-need-token", action="store_true", help="check that the metrics need a token"
    )
    parser.add_argument("--admission-policy", action="store_true", help="check the policy on Secrets as well")
    parser.add_argument("--job", type=json.loads, help="spec of a FineTuneJob to run to its end, as JSON")
    parser.add_argument("--job-seconds", type=float, default=3600.0, help="default: %(default)s")
    parser.add_argument(
        "--wait-seconds", type=float, default=60.0, help="for each check; default: %(default)s"
    )
    arguments = parser.parse_args()
    logs.set_up(verbose=False)
    return 0 if asyncio.run(main(arguments)) else 1


if __name__ == "__main__":
    sys.exit(run())

"""Polls the first pod of each running stage for its progress, and enqueues the run when its status is due.

Request and answer are signed with the key of the pod (contract.signatures). The answer comes from a tenant's
pod: time, size and content are bounded. A missing answer decides nothing.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import aiohttp
from pydantic import ValidationError

from finetune_operator.names import ANNOTATION_PROGRESS_KEY, LABEL_ATTEMPT, LABEL_ROLE, LABEL_STAGE
from finetune_operator.objects import Manifest
from finetune_operator.runtime import metrics
from finetune_trainer.contract import MAX_PROGRESS_BYTES, PROGRESS_PORT, Progress, Stage, signatures, speaks

ANSWER_SECONDS = 2.0
MAX_CONCURRENT_REQUESTS = 100
"""Most requests at the same time."""
ROUNDING_SECONDS = 1.0
"""Times in a status are whole seconds, so an update that comes a moment early would be left out."""
LARGEST = 2.0**53
"""Largest integer that every JSON parser keeps exact."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The address and the key of a pod, and the stage and attempt that its answer must name."""

    address: str
    key: str = field(repr=False)
    stage: Stage
    attempt: int


@dataclass
class _Followed:
    target: Target
    answer: Progress | None = None
    """The newest answer that the status shows or should show."""
    newest: Progress | None = None
    """The newest answer, which the metrics show at once."""
    answered_at: float = 0.0
    shown: bool = False


@dataclass
class Poller:
    """Polls the pods of the followed runs.

    Args:
        poll_seconds: time between two requests to one pod.
        status_seconds: progress alone enqueues a run at most this often.
    """

    poll_seconds: float
    status_seconds: float
    _followed: dict[str, _Followed] = field(default_factory=dict)

    def follow(self, run: str, target: Target | None) -> None:
        """Starts to poll a pod for a run; None: stops to poll for the run."""
        known = self._followed.get(run)
        if target is None:
            self._followed.pop(run, None)
        elif known is None or known.target != target:
            self._followed[run] = _Followed(target)

    def news(self, run: str) -> Progress | None:
        """The newest answer that the status should show; None: there is none, or the status shows it."""
        known = self._followed.get(run)
        return known.answer if known and not known.shown else None

    def newest(self, run: str) -> Progress | None:
        """The newest answer of the pod that is polled for the run; None: there is none."""
        known = self._followed.get(run)
        return known.newest if known else None

    def shown(self, run: str, news: Progress | None) -> None:
        """Records that the status shows an answer; a newer answer is still to be shown."""
        known = self._followed.get(run)
        if known and known.answer is news:
            known.shown = True

    async def run(self, enqueue: Callable[[str], None]) -> None:
        """Polls until cancelled; calls `enqueue` with each run whose status is due."""
        in_flight = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            connector=aiohttp.TCPConnector(force_close=True, limit=MAX_CONCURRENT_REQUESTS),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            while True:
                started = time.monotonic()
                async with asyncio.TaskGroup() as group:
                    for run, followed in list(self._followed.items()):
                        group.create_task(self._poll(session, in_flight, run, followed, enqueue))
                await asyncio.sleep(max(0.0, self.poll_seconds - (time.monotonic() - started)))

    async def _poll(
        self,
        session: aiohttp.ClientSession,
        in_flight: asyncio.Semaphore,
        run: str,
        followed: _Followed,
        enqueue: Callable[[str], None],
    ) -> None:
        try:
            async with in_flight:
                answer = await ask(session, followed.target)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            metrics.POLLS.labels(result="unreachable").inc()
            log.debug("%s does not say how far it is: %s", followed.target.address, error)
            return
        except ValueError as error:
            metrics.POLLS.labels(result="invalid").inc()
            log.info("the progress of %s cannot be used: %s", followed.target.address, str(error)[:300])
            return
        except Exception:
            # No answer of a tenant's pod may stop the poller of the other runs.
            metrics.POLLS.labels(result="invalid").inc()
            log.warning("the progress of %s cannot be read", followed.target.address, exc_info=True)
            return
        metrics.POLLS.labels(result="answered").inc()
        followed.newest = answer
        now = time.monotonic()
        if followed.answer == answer or self._followed.get(run) is not followed:
            return
        event = followed.answer is None or followed.answer.activity != answer.activity
        if event or now - followed.answered_at >= self.status_seconds + ROUNDING_SECONDS:
            followed.answer, followed.answered_at, followed.shown = answer, now, False
            enqueue(run)


def first_pod(pods: Iterable[Manifest], jobs: Iterable[Manifest]) -> Target | None:
    """The newest running pod of the run's Jobs with index 0, an address and a key; no pod of a cleanup."""
    stage_jobs = {
        job["metadata"]["uid"]
        for job in jobs
        if job["metadata"].get("labels", {}).get(LABEL_ROLE) != "cleanup"
    }
    candidates = [
        pod
        for pod in pods
        if pod["status"].get("phase") == "Running"
        and pod["status"].get("podIP")
        and pod["metadata"].get("annotations", {}).get(ANNOTATION_PROGRESS_KEY)
        and pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-completion-index") == "0"
        and any(owner["uid"] in stage_jobs for owner in pod["metadata"].get("ownerReferences", ()))
    ]
    if not candidates:
        return None
    pod = max(candidates, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    labels, key = pod["metadata"]["labels"], pod["metadata"]["annotations"][ANNOTATION_PROGRESS_KEY]
    return Target(pod["status"]["podIP"], key, Stage(labels[LABEL_STAGE]), int(labels[LABEL_ATTEMPT]))


async def ask(session: aiohttp.ClientSession, target: Target) -> Progress:
    """Requests the progress of a pod.

    Raises:
        ValueError: the answer is not signed by the pod, is invalid, or is about another stage or attempt.
        aiohttp.ClientError, TimeoutError: the pod does not answer.
    """
    host = f"[{target.address}]" if ":" in target.address else target.address
    url = f"http://{host}:{PROGRESS_PORT}/progress"
    nonce = signatures.draw_nonce()
    headers = {
        signatures.NONCE_HEADER: nonce,
        signatures.SIGNATURE_HEADER: signatures.sign_request(target.key, nonce),
    }
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        if response.status != 200:  # noqa: PLR2004 - OK
            raise ValueError(f"HTTP status {response.status}")
        data = b""
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > MAX_PROGRESS_BYTES:
                raise ValueError(f"more than {MAX_PROGRESS_BYTES} bytes")
        signature = response.headers.get(signatures.SIGNATURE_HEADER, "")
    if not signatures.is_valid(signature, signatures.sign_answer(target.key, nonce, data)):
        raise ValueError("the answer is not signed with the key of the pod")
    try:
        progress = Progress.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not speaks(progress.contract_version) or (progress.stage, progress.attempt) != (
        target.stage,
        target.attempt,
    ):
        raise ValueError(
            f"the answer is about {progress.stage} attempt {progress.attempt},"
            f" contract {progress.contract_version}"
        )
    return clamped(progress, time.time())


def clamped(progress: Progress, now: float) -> Progress:
    """Bounds the numbers for the API server: finite, at most 2^53, no heartbeat in the future.

    A step is at most the total of the run.
    """
    changes: dict[str, float | None] = {}
    for name in Progress.model_fields:
        value = getattr(progress, name)
        if isinstance(value, float) and not math.isfinite(value):
            changes[name] = None if Progress.model_fields[name].default is None else 0.0
        elif isinstance(value, int | float) and abs(value) > LARGEST:
            # A large integer cannot always be converted to a float.
            changes[name] = type(value)(LARGEST if value > 0 else -LARGEST)
    if math.isfinite(progress.heartbeat):
        changes["heartbeat"] = min(progress.heartbeat, now)
    for name in ("step", "checkpoint_step", "resumed_from_step"):
        value = getattr(progress, name)
        if value is not None and progress.total_steps is not None and value > progress.total_steps:
            changes[name] = progress.total_steps
    return progress.model_copy(update=changes)

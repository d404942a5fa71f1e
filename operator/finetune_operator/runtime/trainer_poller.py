"""Asks the first pod of each running stage how far it is, and wakes the job when its status is due.

What answers is a tenant's pod: time, size and content are bounded, and silence means nothing.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import aiohttp
from pydantic import ValidationError

from finetune_operator.names import LABEL_ATTEMPT, LABEL_ROLE, LABEL_STAGE
from finetune_operator.objects import Manifest
from finetune_operator.runtime import metrics
from finetune_trainer.contract import MAX_PROGRESS_BYTES, PROGRESS_PORT, Progress, Stage, speaks

ANSWER_SECONDS = 2.0
MAX_CONCURRENT_REQUESTS = 100
"""Questions in flight."""
ROUNDING_SECONDS = 1.0
"""Times in a status are whole seconds: news a moment too early would be left out."""
LARGEST = 2.0**53
"""Largest whole number that every JSON reader keeps exact."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The pod to ask and what it must speak of."""

    address: str
    stage: Stage
    attempt: int


@dataclass
class _Followed:
    target: Target
    told: Progress | None = None
    told_at: float = 0.0
    shown: bool = False


@dataclass
class Poller:
    """Follows the runs that it is told to.

    Args:
        poll_seconds: time between two questions to one pod.
        status_seconds: progress alone wakes a job at most this often.
    """

    poll_seconds: float
    status_seconds: float
    _followed: dict[str, _Followed] = field(default_factory=dict)

    def follow(self, run: str, target: Target | None) -> None:
        """Asks this pod from now on, or none any more."""
        known = self._followed.get(run)
        if target is None:
            self._followed.pop(run, None)
        elif known is None or known.target != target:
            self._followed[run] = _Followed(target)

    def news(self, run: str) -> Progress | None:
        """The newest answer that was worth a write, until it has been shown."""
        known = self._followed.get(run)
        return known.told if known and not known.shown else None

    def shown(self, run: str, news: Progress | None) -> None:
        """Records that the status shows this news; an answer that came since stays news."""
        known = self._followed.get(run)
        if known and known.told is news:
            known.shown = True

    async def run(self, enqueue: Callable[[str], None]) -> None:
        """Asks until cancelled; calls `enqueue` with each run whose status is due."""
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
            # Whatever a tenant's pod answers, the operator goes on for all the others.
            metrics.POLLS.labels(result="invalid").inc()
            log.warning("the progress of %s cannot be read", followed.target.address, exc_info=True)
            return
        metrics.POLLS.labels(result="answered").inc()
        now = time.monotonic()
        if followed.told == answer or self._followed.get(run) is not followed:
            return
        event = followed.told is None or followed.told.activity != answer.activity
        if event or now - followed.told_at >= self.status_seconds + ROUNDING_SECONDS:
            followed.told, followed.told_at, followed.shown = answer, now, False
            enqueue(run)


def first_pod(pods: Iterable[Manifest], jobs: Iterable[Manifest]) -> Target | None:
    """The running pod of index 0 that can be asked for its progress: of a Job of ours, the newest."""
    ours = {
        job["metadata"]["uid"]
        for job in jobs
        if job["metadata"].get("labels", {}).get(LABEL_ROLE) != "cleanup"
    }
    candidates = [
        pod
        for pod in pods
        if pod["status"].get("phase") == "Running"
        and pod["status"].get("podIP")
        and pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-completion-index") == "0"
        and any(owner["uid"] in ours for owner in pod["metadata"].get("ownerReferences", ()))
    ]
    if not candidates:
        return None
    pod = max(candidates, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    labels = pod["metadata"]["labels"]
    return Target(pod["status"]["podIP"], Stage(labels[LABEL_STAGE]), int(labels[LABEL_ATTEMPT]))


async def ask(session: aiohttp.ClientSession, target: Target) -> Progress:
    """What a pod says of its progress.

    Raises:
        ValueError: it is not an answer of this stage and attempt that can be used.
        aiohttp.ClientError, TimeoutError: it does not answer.
    """
    host = f"[{target.address}]" if ":" in target.address else target.address
    url = f"http://{host}:{PROGRESS_PORT}/progress"
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:  # noqa: PLR2004 - OK
            raise ValueError(f"HTTP status {response.status}")
        data = b""
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > MAX_PROGRESS_BYTES:
                raise ValueError(f"more than {MAX_PROGRESS_BYTES} bytes")
    try:
        said = Progress.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not speaks(said.contract_version) or (said.stage, said.attempt) != (target.stage, target.attempt):
        raise ValueError(
            f"it speaks of {said.stage} attempt {said.attempt}, contract {said.contract_version}"
        )
    return clamped(said, time.time())


def clamped(said: Progress, now: float) -> Progress:
    """Numbers that the API server can store: finite, at most 2^53, a heartbeat not of the future."""
    changes: dict[str, float | None] = {}
    for name in Progress.model_fields:
        value = getattr(said, name)
        if isinstance(value, float) and not math.isfinite(value):
            changes[name] = None if Progress.model_fields[name].default is None else 0.0
        elif isinstance(value, int | float) and abs(value) > LARGEST:
            # A whole number may be too large even to become a float.
            changes[name] = type(value)(LARGEST if value > 0 else -LARGEST)
    if math.isfinite(said.heartbeat):
        changes["heartbeat"] = min(said.heartbeat, now)
    if said.step is not None and said.total_steps is not None and said.step > said.total_steps:
        changes["step"] = said.total_steps
    return said.model_copy(update=changes)

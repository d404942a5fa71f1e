"""One run of one side: its controllers start, get jobs, are looked on and ended; then all is cleared.

Kubernetes' Job controller makes pods for the Jobs (nothing runs them), so that what is counted and weighed is
what a cluster would see. It stands still in the burst: its work is the same for both and none of theirs.
"""

import asyncio
import contextlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.burst import audit, releases
from bench.burst.figures import Idle, Process, Run, counted
from bench.burst.kube import CONNECTIONS, Kube, kubeconfig_as
from bench.burst.sides import NAMESPACE, Controller, Side
from devcluster import processes
from devcluster.controlplane import controller_manager

START_SECONDS = 90.0
"""For the controllers to be there: a lease and a cache are waited for."""
BURST_SECONDS = 600.0
REST_SECONDS = 900.0
"""For the Job controller to make all pods or to let them go, and for the controllers to take note."""
QUIET_SECONDS = 3.0
"""The controllers are done when they have asked for nothing for so long."""
_TOKEN_SECONDS = 6 * 3600
_JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_CHILDREN = (
    _JOBS,
    _PODS,
    f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies",
    f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events",
    *(f"/api/v1/namespaces/{NAMESPACE}/{kind}" for kind in ("services", "secrets", "configmaps")),
)
_TICKS = os.sysconf("SC_CLK_TCK")
_KIB = 1024


@dataclass(frozen=True)
class Server:
    """The API server that all runs share.

    Attributes:
        kube: its administrator's client.
        kubeconfig: its administrator's kubeconfig.
        folder: where it writes `audit.log`, and where the controllers' logs go.
    """

    kube: Kube
    kubeconfig: Path
    folder: Path


@dataclass(frozen=True)
class Size:
    """How much is asked of each run.

    Attributes:
        jobs: applied at once.
        alone: applied one after the other before that.
        idle_seconds: how long to look on afterwards; 0: not at all.
    """

    jobs: int
    alone: int
    idle_seconds: float


async def run(server: Server, side: Side, number: int, load: float, size: Size) -> Run:
    """Measures one side once.

    Args:
        server: where.
        side: who.
        number: of the round.
        load: load average that was found before, for the record.
        size: how much.
    """
    actors = [controller.account for controller in side.controllers]
    async with _started(server, side) as running:
        with controller_manager(server.folder, "job-controller"):
            await _warm_up(server, side, running)
            await _rest(server, actors, 1)
            before = _audit_end(server)
            alone = [await _first_job(server.kube, side, f"alone-{index}") for index in range(size.alone)]
            await _rest(server, actors, 1 + size.alone)
            alone_requests = audit.requests(_audit_since(server, before), actors)
        before, cpu_before = _audit_end(server), [_cpu_seconds(process) for process in running]
        waits, seconds = await _burst(server.kube, side, [f"burst-{index}" for index in range(size.jobs)])
        cpu_after = [_cpu_seconds(process) for process in running]
        with controller_manager(server.folder, "job-controller"):
            await _rest(server, actors, 1 + size.alone + size.jobs)
            burst_requests = audit.requests(_audit_since(server, before), actors)
            cpu = [after - before for before, after in zip(cpu_before, cpu_after, strict=True)]
            taken = [
                _taken(controller, process, seconds)
                for controller, process, seconds in zip(side.controllers, running, cpu, strict=True)
            ]
            idle = await _idle(server, actors, size.idle_seconds) if size.idle_seconds else None
    with controller_manager(server.folder, "job-controller"):
        await _clear(server.kube, side)
    return Run(
        side=side.name,
        round=number,
        load=load,
        alone_seconds=tuple(alone),
        alone_requests=counted(alone_requests),
        waits=tuple(waits),
        seconds=seconds,
        burst_requests=counted(burst_requests),
        processes=tuple(taken),
        idle=idle,
    )


@asynccontextmanager
async def _started(server: Server, side: Side) -> AsyncIterator[list[processes.Owned]]:
    """The controllers of a side, each under its own service account, ready to answer."""
    with contextlib.ExitStack() as stack:
        running = []
        for controller in side.controllers:
            account = f"/api/v1/namespaces/{controller.namespace}/serviceaccounts/{controller.account}"
            wanted = {"spec": {"expirationSeconds": _TOKEN_SECONDS}}
            token = await server.kube.call("POST", f"{account}/token", wanted)
            kubeconfig = server.folder / f"{controller.account}.kubeconfig"
            kubeconfig_as(server.kubeconfig, token["status"]["token"], kubeconfig)
            environment = controller.environment | {"KUBECONFIG": str(kubeconfig)}
            log = _log(server, controller)
            process = processes.start_owned(list(controller.command), log, environment)
            stack.callback(processes.end_owned, process)
            running.append(process)
        for controller, process in zip(side.controllers, running, strict=True):
            answers = lambda url=controller.ready: _answers(url)  # noqa: E731 - bound to this controller
            await asyncio.to_thread(
                processes.await_answer, answers, process, _log(server, controller), START_SECONDS
            )
        if side.prepare:
            releases.apply(server.kubeconfig, side.prepare)
        yield running


async def _warm_up(server: Server, side: Side, running: Sequence[processes.Owned]) -> None:
    """One job goes through: leases are held, caches filled, connections made."""
    try:
        async with asyncio.timeout(START_SECONDS):
            await _first_job(server.kube, side, "warm-up")
    except TimeoutError:
        logs = [f"{_log(server, c)} ({p.poll()})" for c, p in zip(side.controllers, running, strict=True)]
        raise RuntimeError(
            f"{side.name} made no Job within {START_SECONDS:.0f} s; see {', '.join(logs)}"
        ) from None


async def _first_job(kube: Kube, side: Side, name: str) -> float:
    """Seconds from sending one job to its first Job."""
    waits, _ = await _burst(kube, side, [name])
    return waits[0]


async def _burst(kube: Kube, side: Side, names: Sequence[str]) -> tuple[list[float], float]:
    """Applies jobs, all at once; each one's seconds to its first Job, and seconds from first to last."""
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    turnstile = asyncio.Semaphore(CONNECTIONS)
    watching = asyncio.Event()

    async def watch() -> None:
        appearing = kube.appearing(_JOBS, side.first, watching.set)
        async with contextlib.aclosing(appearing) as jobs:
            async for metadata in jobs:
                seen.setdefault(metadata["labels"][side.owner], time.monotonic())
                if len(seen) == len(names):
                    return
        raise RuntimeError("the API server ended the watch of Jobs")

    async def apply(name: str) -> None:
        async with turnstile:
            sent[name] = time.monotonic()
            await kube.call("POST", side.jobs, side.named(name))

    async with asyncio.timeout(BURST_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(watch())
        await watching.wait()
        for name in names:
            group.create_task(apply(name))
    return [seen[name] - sent[name] for name in names], max(seen.values()) - min(sent.values())


async def _rest(server: Server, actors: Sequence[str], pods: int) -> None:
    """Waits until there are so many pods and the controllers have asked for nothing for a while."""
    async with asyncio.timeout(REST_SECONDS):
        await _await_pods(server.kube, pods)
        while True:
            before = _audit_end(server)
            await asyncio.sleep(QUIET_SECONDS)
            if not audit.requests(_audit_since(server, before), actors):
                return


async def _await_pods(kube: Kube, wanted: int) -> None:
    while True:
        page = await kube.call("GET", _PODS, query={"limit": "1"})
        if len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0)) == wanted:
            return
        await asyncio.sleep(1)


async def _idle(server: Server, actors: Sequence[str], seconds: float) -> Idle:
    before, began = _audit_end(server), time.monotonic()
    await asyncio.sleep(seconds)
    requests = audit.requests(_audit_since(server, before), actors)
    return Idle(seconds=time.monotonic() - began, requests=counted(requests))


async def _clear(kube: Kube, side: Side) -> None:
    """Deletes what the run has made; no garbage collector runs here, so each kind by itself.

    The leases too: the next run's controllers would wait until those of the dead ran out.
    """
    leases = [f"/apis/coordination.k8s.io/v1/namespaces/{c.namespace}/leases" for c in side.controllers]
    for path in (side.jobs, *side.between, *_CHILDREN, *leases):
        await kube.call("DELETE", path, {"propagationPolicy": "Background"})
    async with asyncio.timeout(REST_SECONDS):
        await _await_pods(kube, 0)


def _audit_end(server: Server) -> int:
    return (server.folder / "audit.log").stat().st_size


def _audit_since(server: Server, offset: int) -> Iterator[dict[str, Any]]:
    """What was recorded after a place in the audit log.

    Raises:
        RuntimeError: the API server has begun a new file, and some of it is lost.
    """
    if _audit_end(server) < offset:
        raise RuntimeError("the audit log was rotated in a run: measure fewer jobs")
    with (server.folder / "audit.log").open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _log(server: Server, controller: Controller) -> Path:
    return server.folder / f"{controller.account}.log"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - a port of this machine
            return True
    except (urllib.error.URLError, OSError):
        return False


def _taken(controller: Controller, process: processes.Owned, cpu_seconds: float) -> Process:
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if ":" in line
    )
    return Process(
        controller=controller.name,
        resident_bytes=int(status["VmRSS"].split()[0]) * _KIB,
        peak_bytes=int(status["VmHWM"].split()[0]) * _KIB,
        cpu_seconds=cpu_seconds,
    )


def _cpu_seconds(process: processes.Owned) -> float:
    # After the name in brackets, which may hold blanks: fields 14 and 15 of proc(5).
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

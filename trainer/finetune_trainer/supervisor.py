"""PID 1 of every trainer pod: starts the ranks, watches them, and has the last word. No torch here.

It owns port 8080, the termination message, the tail of the log and the exit code. Everything it decides
stands in `watchdog` (end them now?) and `classify` (why did it end?); this module acts.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer import processes
from finetune_trainer.cgroup import oom_kills, usable_cpus
from finetune_trainer.classify import Death, Observed, Verdict, classify
from finetune_trainer.config import ConfigError, TrainConfig
from finetune_trainer.contract import FailureClass, Progress, RankFile, TerminationMessage
from finetune_trainer.endpoint import Endpoint
from finetune_trainer.lastword import compose, say, without_config
from finetune_trainer.launch import Launch, launch
from finetune_trainer.logtail import LogTail
from finetune_trainer.places import Places
from finetune_trainer.rendezvous import MasterSearch
from finetune_trainer.watchdog import Scene, Silence, Stop, Why, decide, listen

TICK_SECONDS = 0.2
STACK_SECONDS = 2.0
"""What ranks get to write down their stacks before they are killed."""
REPORT_SECONDS = 3.0
"""What torchrun gets to say how its ranks died after they were killed."""
EVIDENCE_SECONDS = 10.0
SAFETY_SECONDS = 5.0
"""Kept from the grace period for the message and the exit."""
MakeLaunch = Callable[[float], Launch]

log = logging.getLogger(__name__)


@dataclass
class _Gang:
    """What is known about this pod's ranks; only `_watch` writes it."""

    launch: Launch
    child: int | None = None
    child_code: int | None = None
    child_ended: float = 0.0
    files: dict[int, RankFile] = field(default_factory=dict)
    silent: dict[int, Silence] = field(default_factory=dict)
    gone: dict[int, float] = field(default_factory=dict)
    leaving_since: float | None = None
    stop: Stop | None = None


def main(places: Places, port: int) -> int:
    """Runs one stage to its end, whatever end; returns the exit code."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s supervisor: %(message)s")
    processes.take_over()
    try:
        config = TrainConfig.read(places.config)
    except ConfigError as error:
        hint = "The operator wrote this file: operator and trainer image may not fit together."
        verdict = Verdict(FailureClass.USER_CONFIG, "ConfigInvalid", str(error), hint)
        return say(places, without_config(places, verdict))
    node = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))

    def make(seconds_left: float) -> Launch:
        return launch(
            config,
            places,
            node=node,
            cpus=usable_cpus(),
            environment=os.environ,
            seconds_left=seconds_left,
        )

    try:
        message = supervise(config, places, make, port)
    except Exception as error:
        log.exception("the supervisor itself failed")
        processes.end_descendants()
        text = f"The supervisor failed: {type(error).__name__}: {error}"
        message = compose(config, Verdict(FailureClass.INTERNAL, "SupervisorFailed", text), {})
    return say(places, message)


def supervise(config: TrainConfig, places: Places, make: MakeLaunch, port: int) -> TerminationMessage:
    """Starts the ranks, waits for their end or brings it about, and says why.

    `processes.take_over` must have been called. When this returns, nothing below this process is alive.

    Args:
        config: the trainer's input.
        places: where files lie.
        make: what to start, given the seconds left of the start-up deadline.
        port: of the endpoint; 0 is any free one.
    """
    _clear(places)
    killed_before = oom_kills()
    gang = _Gang(make(config.rendezvous.startup_deadline_seconds))
    endpoint = _serve(config, places, port)
    tail = LogTail()
    try:
        _watch(config, places, gang, make, tail)
    finally:
        stuck = processes.end_descendants()
        tail.close()
    if stuck:
        log.warning("processes stuck in the kernel are left behind: %s", sorted(stuck))
    gang.files = _rank_files(places, gang)
    killed = oom_kills()
    rise = None if killed is None or killed_before is None else killed - killed_before
    verdict = classify(_observed(gang, places, rise, tail.text()))
    _keep_evidence(config, places, verdict, tail)
    if endpoint:
        endpoint.close()
    return compose(config, verdict, gang.files)


def _watch(config: TrainConfig, places: Places, gang: _Gang, make: MakeLaunch, tail: LogTail) -> None:
    """The life of the gang, until its end or until it has been ended."""
    meeting = config.rendezvous
    deadline = time.monotonic() + meeting.startup_deadline_seconds
    search = (
        MasterSearch(meeting.master_address, meeting.master_port, meeting.startup_deadline_seconds)
        if gang.launch.meets
        else None
    )
    grace = float(config.preemption_grace_seconds)
    grace -= min(SAFETY_SECONDS, grace / 4)
    looked = time.monotonic()
    while True:
        told = processes.next_signal(TICK_SECONDS)
        left = deadline - time.monotonic()
        if gang.child is None and (search is None or search.found.address):
            gang.launch = make(left)
            gang.child = processes.spawn(gang.launch.argv, gang.launch.environment, tail.write_end)
        _look(places, gang)
        if gang.child_code is not None:
            return
        now = time.monotonic()
        gang.silent = listen(gang.silent, gang.files, now - looked)
        looked = now
        if told in {signal.SIGTERM, signal.SIGINT}:
            gang.stop = _ask_to_leave(gang)
        scene = Scene(
            expected=gang.launch.ranks,
            files=gang.files,
            silent=gang.silent,
            gone=gang.gone,
            now=time.time(),
            start_seconds_left=left,
            leaving_since=gang.leaving_since,
            grace_seconds=grace,
        )
        gang.stop = gang.stop or decide(scene)
        if gang.stop and search and gang.stop.why is Why.NEVER_STARTED:
            gang.stop = _not_met(gang.stop, search, config)
        if gang.stop:
            _end(gang, places)
            return


def _look(places: Places, gang: _Gang) -> None:
    """Brings the picture up to date: exits, rank files, processes that are gone."""
    now = time.time()
    exits = processes.reap()
    if gang.child in exits:
        gang.child_code, gang.child_ended = exits[gang.child], now
    gang.files = _rank_files(places, gang)
    for rank, file in gang.files.items():
        if rank not in gang.gone and not processes.alive(file.pid):
            gang.gone[rank] = now


def _rank_files(places: Places, gang: _Gang) -> dict[int, RankFile]:
    """What the ranks say; a file that cannot be read keeps its last content."""
    files = {}
    for rank in gang.launch.ranks:
        try:
            files[rank] = RankFile.model_validate_json((places.ranks / f"{rank}.json").read_bytes())
        except (OSError, ValidationError):
            if rank in gang.files:
                files[rank] = gang.files[rank]
    return files


def _ask_to_leave(gang: _Gang) -> Stop | None:
    """SIGTERM: the first time the ranks are asked to save and leave, the second time it is over."""
    if gang.leaving_since is not None:
        log.info("told to end a second time: stopping at once")
        return Stop(Why.TOLD_TWICE, time.time())
    gang.leaving_since = time.time()
    ours = processes.descendants()
    asked = {file.pid for file in gang.files.values() if file.ended is None and file.pid in ours}
    log.info("told to end: asking %d ranks to save and leave", len(asked))
    processes.send(asked, signal.SIGUSR1)
    return None


def _end(gang: _Gang, places: Places) -> None:
    """Ends the ranks; torchrun gets a moment to say how."""
    if gang.stop is None or gang.child is None:
        return
    log.info("ending the ranks: %s %s", gang.stop.why, gang.stop.detail)
    if gang.stop.why is Why.HANG:
        _write_stacks(gang, places)
    if not gang.launch.agent:
        return
    processes.send(processes.descendants(gang.child), signal.SIGKILL)
    deadline = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < deadline and gang.child not in processes.reap():
        time.sleep(TICK_SECONDS / 4)


def _write_stacks(gang: _Gang, places: Places) -> None:
    """Asks every rank for its stack, and notes what the kernel says of each."""
    ours = processes.descendants()
    ranks = {rank: file.pid for rank, file in gang.files.items() if file.pid in ours}
    processes.send(set(ranks.values()), signal.SIGUSR2)
    time.sleep(STACK_SECONDS)
    places.stacks.mkdir(parents=True, exist_ok=True)
    states = [f"rank {rank} pid {pid} state {processes.state(pid)}" for rank, pid in sorted(ranks.items())]
    (places.stacks / "states.txt").write_text("\n".join(states) + "\n")
    if gang.stop and processes.state(ranks.get(gang.stop.ranks[0], 0)) == "T":
        detail = f"{gang.stop.detail}, its process is stopped"
        gang.stop = Stop(gang.stop.why, gang.stop.time, gang.stop.ranks, detail)


def _not_met(stop: Stop, search: MasterSearch, config: TrainConfig) -> Stop:
    """The deadline is over: because of the master, or because of somebody else?"""
    meeting = config.rendezvous
    why = Why.NEVER_STARTED if search.found.answers else Why.UNREACHABLE
    detail = search.found.describe(meeting.master_address, meeting.master_port)
    return Stop(why, stop.time, stop.ranks, detail)


def _observed(gang: _Gang, places: Places, oom: int | None, tail: str) -> Observed:
    report = _agent_report(places)
    deaths = []
    if gang.launch.agent:
        for death in report.get("deaths", []):
            rank = int(death["rank"])
            if gang.stop is None or rank in gang.gone:
                time_seen = gang.gone.get(rank, float(death["time"]))
                deaths.append(Death(rank, int(death["code"]), time_seen))
        if gang.child_code is not None and not report:
            deaths.append(Death(None, gang.child_code, gang.child_ended))
    elif gang.child_code is not None:
        deaths.append(Death(gang.launch.ranks[0], gang.child_code, gang.child_ended))
    return Observed(
        expected=gang.launch.ranks,
        files=gang.files,
        now=time.time(),
        deaths=deaths,
        oom_kills=oom,
        asked_to_leave=gang.leaving_since,
        stop=gang.stop,
        agent_error=report.get("error"),
        meets=gang.launch.meets,
        tail=tail,
    )


def _agent_report(places: Places) -> dict[str, Any]:
    try:
        report = json.loads(places.agent.read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _serve(config: TrainConfig, places: Places, port: int) -> Endpoint | None:
    """A taken port costs the progress, never the run."""
    nothing = Progress(stage=config.stage, attempt=config.attempt)

    def progress() -> Progress:
        try:
            return Progress.model_validate_json(places.progress.read_bytes())
        except (OSError, ValidationError):
            return nothing

    labels = {
        "namespace": config.job.namespace,
        "job": config.job.name,
        "attempt": str(config.attempt),
        "stage": config.stage.value,
    }
    try:
        endpoint = Endpoint(port, progress, labels)
    except OSError as error:
        log.warning("progress cannot be served on port %d: %s", port, error)
        return None
    log.info("%s, attempt %d: progress on port %d", config.stage, config.attempt, endpoint.port)
    return endpoint


def _keep_evidence(config: TrainConfig, places: Places, verdict: Verdict, tail: LogTail) -> None:
    """Best effort and bounded; not where there was no fault, or where the store is the fault."""
    if verdict.failure in {FailureClass.SUCCESS, FailureClass.PREEMPTED, FailureClass.STORAGE}:
        return
    tail.save(places.scratch / "log-tail.txt")
    if not places.credentials("output").is_dir():
        return
    argv = (sys.executable, "-m", "finetune_trainer.evidence", "--root", str(places.root))
    child = processes.spawn(argv, os.environ, sys.stdout.fileno())
    deadline = time.monotonic() + EVIDENCE_SECONDS
    while (code := processes.reap().get(child)) is None and time.monotonic() < deadline:
        if processes.next_signal(TICK_SECONDS) in {signal.SIGTERM, signal.SIGINT}:
            break
    if code != 0:
        log.warning("the evidence of attempt %d could not be stored", config.attempt)
    processes.end_descendants()


def _clear(places: Places) -> None:
    """Nothing of an earlier container in this pod may speak for this one."""
    stale: list[Path] = [places.agent, places.progress, *places.ranks.glob("*"), *places.stacks.glob("*")]
    for file in stale:
        file.unlink(missing_ok=True)
    for folder in (places.ranks, places.stacks):
        folder.mkdir(parents=True, exist_ok=True)

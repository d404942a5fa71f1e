"""PID 1 of every trainer pod: starts the ranks, watches them, and has the last word. No torch here.

It owns port 8080, the termination message, the tail of the log and the exit code. Everything it decides
stands in `watchdog` (end them now?) and `classify` (why did it end?); this module acts.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from finetune_trainer.config import ConfigError, TrainConfig
from finetune_trainer.contract import FailureClass, Progress, TerminationMessage
from finetune_trainer.paths import Paths
from finetune_trainer.pod import console, processes
from finetune_trainer.pod.cgroup import oom_kills, usable_cpus
from finetune_trainer.pod.classify import Verdict, classify
from finetune_trainer.pod.endpoint import Endpoint
from finetune_trainer.pod.launch import RANK_PROGRAM, Launch, launch
from finetune_trainer.pod.logtail import LogTail
from finetune_trainer.pod.podview import PodView, look, observed, rank_files
from finetune_trainer.pod.rendezvous import MasterSearch
from finetune_trainer.pod.termination import compose, say, without_config
from finetune_trainer.pod.watchdog import Context, Stop, Why, decide, listen

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


def main(paths: Paths, port: int, program: Sequence[str] = RANK_PROGRAM) -> int:
    """Runs one stage to its end, whatever end; returns the exit code.

    Args:
        paths: where files lie.
        port: of the endpoint; 0 is any free one.
        program: what Python runs as a rank.
    """
    console.set_up(sys.stdout, "supervisor")
    processes.take_over()
    try:
        config = TrainConfig.read(paths.config)
    except ConfigError as error:
        hint = "The operator wrote this file: operator and trainer image may not fit together."
        verdict = Verdict(FailureClass.USER_CONFIG, "ConfigInvalid", str(error), hint)
        return say(paths, without_config(paths, verdict))
    node = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))

    def make(seconds_left: float) -> Launch:
        return launch(
            config,
            paths,
            node=node,
            cpus=usable_cpus(),
            environment=os.environ,
            seconds_left=seconds_left,
            program=program,
        )

    try:
        message = supervise(config, paths, make, port)
    except Exception as error:
        log.exception("the supervisor itself failed")
        processes.end_descendants()
        text = f"The supervisor failed: {type(error).__name__}: {error}"
        message = compose(config, Verdict(FailureClass.INTERNAL, "SupervisorFailed", text), {})
    return say(paths, message)


def supervise(config: TrainConfig, paths: Paths, make: MakeLaunch, port: int) -> TerminationMessage:
    """Starts the ranks, waits for their end or brings it about, and says why.

    `processes.take_over` must have been called. When this returns, nothing below this process is alive.

    Args:
        config: the trainer's input.
        paths: where files lie.
        make: what to start, given the seconds left of the start-up deadline.
        port: of the endpoint; 0 is any free one.
    """
    _clear(paths)
    killed_before = oom_kills()
    view = PodView(make(config.rendezvous.startup_deadline_seconds))
    endpoint = _serve(config, paths, port)
    tail = LogTail()
    try:
        _watch(config, paths, view, make, tail)
    finally:
        stuck = processes.end_descendants()
        tail.close()
    if stuck:
        log.warning("processes stuck in the kernel are left behind: %s", sorted(stuck))
    view.files = rank_files(paths, view)
    killed = oom_kills()
    rise = None if killed is None or killed_before is None else killed - killed_before
    verdict = classify(observed(view, paths, rise, tail.text()))
    _keep_evidence(config, paths, verdict, tail)
    if endpoint:
        endpoint.close()
    return compose(config, verdict, view.files)


def _watch(config: TrainConfig, paths: Paths, view: PodView, make: MakeLaunch, tail: LogTail) -> None:
    """The life of the ranks, until its end or until it has been ended."""
    meeting = config.rendezvous
    deadline = time.monotonic() + meeting.startup_deadline_seconds
    search = (
        MasterSearch(meeting.master_address, meeting.master_port, meeting.startup_deadline_seconds)
        if view.launch.meets
        else None
    )
    grace = float(config.preemption_grace_seconds)
    grace -= min(SAFETY_SECONDS, grace / 4)
    looked = time.monotonic()
    while True:
        told = processes.next_signal(TICK_SECONDS)
        left = deadline - time.monotonic()
        if view.child is None and (search is None or search.found.address):
            view.launch = make(left)
            view.child = processes.spawn(view.launch.argv, view.launch.environment, tail.write_end)
        look(paths, view)
        if view.child_code is not None:
            return
        now = time.monotonic()
        view.silent = listen(view.silent, view.files, now - looked)
        looked = now
        if told in {signal.SIGTERM, signal.SIGINT}:
            view.stop = _ask_to_leave(view)
        context = Context(
            expected=view.launch.ranks,
            files=view.files,
            silent=view.silent,
            gone=view.gone,
            now=time.time(),
            start_seconds_left=left,
            leaving_since=view.leaving_since,
            grace_seconds=grace,
        )
        view.stop = view.stop or decide(context)
        if view.stop and search and view.stop.why is Why.NEVER_STARTED:
            view.stop = _not_met(view.stop, search, config)
        if view.stop:
            _end(view, paths)
            return


def _ask_to_leave(view: PodView) -> Stop | None:
    """SIGTERM: the first time the ranks are asked to save and leave, the second time it is over."""
    if view.leaving_since is not None:
        log.info("told to end a second time: stopping at once")
        return Stop(Why.TOLD_TWICE, time.time())
    view.leaving_since = time.time()
    ours = processes.descendants()
    asked = {file.pid for file in view.files.values() if file.ended is None and file.pid in ours}
    log.info("told to end: asking %d ranks to save and leave", len(asked))
    processes.send(asked, signal.SIGUSR1)
    return None


def _end(view: PodView, paths: Paths) -> None:
    """Ends the ranks; torchrun gets a moment to say how."""
    if view.stop is None or view.child is None:
        return
    log.info("ending the ranks: %s %s", view.stop.why, view.stop.detail)
    if view.stop.why is Why.HANG:
        _write_stacks(view, paths)
    if not view.launch.agent:
        return
    ranks = processes.descendants(view.child)
    if not ranks:
        return
    processes.send(ranks, signal.SIGKILL)
    deadline = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < deadline and view.child not in processes.reap():
        time.sleep(TICK_SECONDS / 4)


def _write_stacks(view: PodView, paths: Paths) -> None:
    """Asks every rank for its stack, and notes what the kernel says of each."""
    ours = processes.descendants()
    ranks = {rank: file.pid for rank, file in view.files.items() if file.pid in ours}
    processes.send(set(ranks.values()), signal.SIGUSR2)
    time.sleep(STACK_SECONDS)
    paths.stacks.mkdir(parents=True, exist_ok=True)
    states = [f"rank {rank} pid {pid} state {processes.state(pid)}" for rank, pid in sorted(ranks.items())]
    (paths.stacks / "states.txt").write_text("\n".join(states) + "\n")
    if view.stop and processes.state(ranks.get(view.stop.ranks[0], 0)) == "T":
        detail = f"{view.stop.detail}, its process is stopped"
        view.stop = Stop(view.stop.why, view.stop.time, view.stop.ranks, detail)


def _not_met(stop: Stop, search: MasterSearch, config: TrainConfig) -> Stop:
    """The deadline is over: because of the master, or because of somebody else?"""
    meeting = config.rendezvous
    why = Why.NEVER_STARTED if search.found.answers else Why.UNREACHABLE
    detail = search.found.describe(meeting.master_address, meeting.master_port)
    return Stop(why, stop.time, stop.ranks, detail)


def _serve(config: TrainConfig, paths: Paths, port: int) -> Endpoint | None:
    """A taken port costs the progress, never the run."""
    nothing = Progress(stage=config.stage, attempt=config.attempt)

    def progress() -> Progress:
        try:
            return Progress.model_validate_json(paths.progress.read_bytes())
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


def _keep_evidence(config: TrainConfig, paths: Paths, verdict: Verdict, tail: LogTail) -> None:
    """Best effort and bounded; not where there was no fault, or where the store is the fault."""
    if verdict.failure in {FailureClass.SUCCESS, FailureClass.PREEMPTED, FailureClass.STORAGE}:
        return
    tail.save(paths.scratch / "log-tail.txt")
    if not paths.credentials("output").is_dir():
        return
    argv = (sys.executable, "-m", "finetune_trainer.pod.evidence", "--root", str(paths.root))
    output = LogTail()
    child = processes.spawn(argv, os.environ, output.write_end)
    deadline = time.monotonic() + EVIDENCE_SECONDS
    while (code := processes.reap().get(child)) is None and time.monotonic() < deadline:
        if processes.next_signal(TICK_SECONDS) in {signal.SIGTERM, signal.SIGINT}:
            break
    if code != 0:
        log.warning("the evidence of attempt %d could not be stored", config.attempt)
    processes.end_descendants()
    output.close()


def _clear(paths: Paths) -> None:
    """Nothing of an earlier container in this pod may speak for this one."""
    folders = (paths.ranks, paths.stacks, paths.errors)
    stale: list[Path] = [paths.agent, paths.progress, *(file for at in folders for file in at.glob("*"))]
    for file in stale:
        file.unlink(missing_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)

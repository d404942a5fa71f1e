"""PID 1 of every trainer pod: starts the ranks, watches their heartbeats, and reports the end. No torch here.

The supervisor owns port 8080, the termination message, the end of the log and the exit code. The module
`watchdog` decides whether to end the ranks, `classify` finds the cause of the end, and this module acts.
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
from finetune_trainer.contract.gauges import GAUGE_LABELS
from finetune_trainer.paths import Paths
from finetune_trainer.pod import console, processes
from finetune_trainer.pod.cgroup import oom_kills, usable_cpus
from finetune_trainer.pod.classify import Verdict, classify
from finetune_trainer.pod.endpoint import Endpoint
from finetune_trainer.pod.launch import RANK_PROGRAM, Launch, launch
from finetune_trainer.pod.logtail import LogTail
from finetune_trainer.pod.pod_state import PodState, observed, rank_files, refresh
from finetune_trainer.pod.rendezvous import MasterSearch
from finetune_trainer.pod.termination import compose, without_config, write_message
from finetune_trainer.pod.watchdog import Context, Stop, StopCause, decide, update_silences

TICK_SECONDS = 0.2
STACK_SECONDS = 2.0
"""Time for the ranks to write their stacks before SIGKILL."""
REPORT_SECONDS = 3.0
"""Time for torchrun to report the exit codes of its ranks after SIGKILL."""
EVIDENCE_SECONDS = 10.0
"""Time limit for the upload of the diagnostic files of a failed pod."""
SAFETY_SECONDS = 5.0
"""Part of the grace period that is reserved for the termination message and the exit."""
MakeLaunch = Callable[[float], Launch]

log = logging.getLogger(__name__)


def main(paths: Paths, port: int, program: Sequence[str] = RANK_PROGRAM) -> int:
    """Runs one stage and writes the termination message.

    Args:
        paths: the folders of the pod.
        port: port of the HTTP endpoint; 0 selects a free port.
        program: arguments of Python that run a rank.

    Returns:
        The exit code of the pod.
    """
    console.set_up(sys.stdout, "supervisor")
    processes.take_over()
    try:
        config = TrainConfig.read(paths.config)
    except ConfigError as error:
        hint = "The operator writes this file: check that operator and trainer image have the same version."
        verdict = Verdict(FailureClass.USER_CONFIG, "ConfigInvalid", str(error), hint)
        return write_message(paths, without_config(paths, verdict))
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
        log.exception("the supervisor failed")
        processes.end_descendants()
        text = f"The supervisor failed: {type(error).__name__}: {error}"
        message = compose(config, Verdict(FailureClass.INTERNAL, "SupervisorFailed", text), {})
    return write_message(paths, message)


def supervise(config: TrainConfig, paths: Paths, make: MakeLaunch, port: int) -> TerminationMessage:
    """Starts the ranks, waits for their end or ends them, and classifies the end.

    The caller must have called `processes.take_over`. On return, this process has no descendants.

    Args:
        config: the configuration of the trainer.
        paths: the folders of the pod.
        make: returns the program to start; its argument is the number of seconds until the start-up deadline.
        port: port of the HTTP endpoint; 0 selects a free port.

    Returns:
        The termination message of the pod.
    """
    _clear(paths)
    killed_before = oom_kills()
    state = PodState(make(config.rendezvous.startup_deadline_seconds))
    endpoint = _serve(config, paths, port)
    tail = LogTail()
    try:
        _watch(config, paths, state, make, tail)
    finally:
        stuck = processes.end_descendants()
        tail.close()
    if stuck:
        log.warning("these processes did not end after SIGKILL: %s", sorted(stuck))
    state.files = rank_files(paths, state)
    killed = oom_kills()
    rise = None if killed is None or killed_before is None else killed - killed_before
    verdict = classify(observed(state, paths, rise, tail.text()))
    _keep_evidence(config, paths, verdict, tail)
    if endpoint:
        endpoint.close()
    return compose(config, verdict, state.files, state.peak_memory)


def _watch(config: TrainConfig, paths: Paths, state: PodState, make: MakeLaunch, tail: LogTail) -> None:
    """Watches the ranks until their program has ended or the supervisor has ended the ranks."""
    rendezvous = config.rendezvous
    deadline = time.monotonic() + rendezvous.startup_deadline_seconds
    search = (
        MasterSearch(rendezvous.master_address, rendezvous.master_port, rendezvous.startup_deadline_seconds)
        if state.launch.needs_rendezvous
        else None
    )
    grace = float(config.preemption_grace_seconds)
    grace -= min(SAFETY_SECONDS, grace / 4)
    last_refresh = time.monotonic()
    while True:
        received = processes.next_signal(TICK_SECONDS)
        left = deadline - time.monotonic()
        if state.child is None and (search is None or search.found.address):
            state.launch = make(left)
            state.child = processes.spawn(state.launch.argv, state.launch.environment, tail.write_end)
        refresh(paths, state)
        if state.child_code is not None:
            return
        now = time.monotonic()
        state.silences = update_silences(state.silences, state.files, now - last_refresh)
        last_refresh = now
        if received in {signal.SIGTERM, signal.SIGINT}:
            state.stop = _request_leave(state)
        context = Context(
            expected=state.launch.ranks,
            files=state.files,
            silences=state.silences,
            gone=state.gone,
            now=time.time(),
            start_seconds_left=left,
            sigterm_time=state.sigterm_time,
            grace_seconds=grace,
        )
        state.stop = state.stop or decide(context)
        if state.stop and search and state.stop.cause is StopCause.NEVER_STARTED:
            state.stop = _rendezvous_failure(state.stop, search, config)
        if state.stop:
            _end(state, paths)
            return


def _request_leave(state: PodState) -> Stop | None:
    """Handles SIGTERM: the first SIGTERM requests the end of the ranks, the second ends the ranks at once."""
    if state.sigterm_time is not None:
        log.info("received a second SIGTERM: stopping at once")
        return Stop(StopCause.TOLD_TWICE, time.time())
    state.sigterm_time = time.time()
    ours = processes.descendants()
    working = {file.pid for file in state.files.values() if file.ended is None and file.pid in ours}
    log.info("received SIGTERM: requesting the end of %d ranks", len(working))
    processes.send(working, signal.SIGUSR1)
    return None


def _end(state: PodState, paths: Paths) -> None:
    """Ends the ranks, and waits at most REPORT_SECONDS for the report of torchrun."""
    if state.stop is None or state.child is None:
        return
    log.info("ending the ranks: %s %s", state.stop.cause, state.stop.detail)
    if state.stop.cause is StopCause.HANG:
        _write_stacks(state, paths)
    if not state.launch.agent:
        return
    ranks = processes.descendants(state.child)
    if not ranks:
        return
    processes.send(ranks, signal.SIGKILL)
    deadline = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < deadline and state.child not in processes.reap():
        time.sleep(TICK_SECONDS / 4)


def _write_stacks(state: PodState, paths: Paths) -> None:
    """Makes every rank write its stacks, and records the process state of every rank."""
    ours = processes.descendants()
    ranks = {rank: file.pid for rank, file in state.files.items() if file.pid in ours}
    processes.send(set(ranks.values()), signal.SIGUSR2)
    time.sleep(STACK_SECONDS)
    paths.stacks.mkdir(parents=True, exist_ok=True)
    states = [f"rank {rank} pid {pid} state {processes.state(pid)}" for rank, pid in sorted(ranks.items())]
    (paths.stacks / "states.txt").write_text("\n".join(states) + "\n")
    if state.stop and processes.state(ranks.get(state.stop.ranks[0], 0)) == "T":
        detail = f"{state.stop.detail}; the process of the rank is stopped"
        state.stop = Stop(state.stop.cause, state.stop.time, state.stop.ranks, detail)


def _rendezvous_failure(stop: Stop, search: MasterSearch, config: TrainConfig) -> Stop:
    """Selects the cause of a rendezvous that missed its deadline: index 0, or another pod of the gang."""
    rendezvous = config.rendezvous
    cause = StopCause.NEVER_STARTED if search.found.answers else StopCause.UNREACHABLE
    detail = search.found.describe(rendezvous.master_address, rendezvous.master_port)
    return Stop(cause, stop.time, stop.ranks, detail)


def _serve(config: TrainConfig, paths: Paths, port: int) -> Endpoint | None:
    """Starts the HTTP endpoint; None if the port is in use, because a stage can run without progress."""
    unknown = Progress(stage=config.stage, attempt=config.attempt)

    def progress() -> Progress:
        try:
            return Progress.model_validate_json(paths.progress.read_bytes())
        except (OSError, ValidationError):
            return unknown

    values = (config.job.namespace, config.job.name, str(config.attempt), config.stage.value)
    labels = dict(zip(GAUGE_LABELS, values, strict=True)) if config.serve_metrics else None
    key = paths.progress_key.read_text().strip() if paths.progress_key.exists() else ""
    try:
        endpoint = Endpoint(port, progress, key, labels)
    except OSError as error:
        log.warning("cannot serve progress on port %d: %s", port, error)
        return None
    log.info("%s, attempt %d: progress on port %d", config.stage, config.attempt, endpoint.port)
    return endpoint


def _keep_evidence(config: TrainConfig, paths: Paths, verdict: Verdict, tail: LogTail) -> None:
    """Uploads the diagnostic files of a failed pod within EVIDENCE_SECONDS; a failure is only logged.

    After success and preemption there is no failure to diagnose, and after a storage failure no upload works.
    """
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
        log.warning("cannot store the diagnostic files of attempt %d", config.attempt)
    processes.end_descendants()
    output.close()


def _clear(paths: Paths) -> None:
    """Deletes the files of an earlier container of this pod, so that this container does not read them."""
    folders = (paths.ranks, paths.stacks, paths.errors)
    stale: list[Path] = [paths.agent, paths.progress, *(file for at in folders for file in at.glob("*"))]
    for file in stale:
        file.unlink(missing_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)

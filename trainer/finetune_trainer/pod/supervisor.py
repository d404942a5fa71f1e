"""PID 1 of every trainer pod: starts the ranks, watches their heartbeats, and reports the end. No torch here.

The supervisor owns port 8080, the termination message, the end of the log and the exit code. The module
`watchdog` decides whether to end the ranks, `classify` finds the cause of the end, `gang` decides whether the
ranks start again in the same pods, and this module acts.
"""

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from finetune_trainer.config import ConfigError, TrainConfig
from finetune_trainer.contract import PROGRESS_PORT, FailureClass, Progress, RankFile, TerminationMessage
from finetune_trainer.contract.gauges import GAUGE_LABELS
from finetune_trainer.paths import Paths
from finetune_trainer.pod import console, processes
from finetune_trainer.pod.cgroup import oom_kills, usable_cpus
from finetune_trainer.pod.classify import Verdict, classify
from finetune_trainer.pod.endpoint import Endpoint
from finetune_trainer.pod.gang import Step
from finetune_trainer.pod.gang_link import Coordinator
from finetune_trainer.pod.launch import RANK_PROGRAM, Launch, launch, with_round
from finetune_trainer.pod.logtail import LogTail
from finetune_trainer.pod.pod_state import PodState, observed, rank_files, refresh
from finetune_trainer.pod.recovery import PREEMPTED, Recovery, open_recovery
from finetune_trainer.pod.rendezvous import MasterSearch
from finetune_trainer.pod.termination import (
    NOTHING,
    Reached,
    compose,
    total_seconds,
    without_config,
    write_message,
)
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
MakeLaunch = Callable[[float, int], Launch]
_END = {signal.SIGTERM, signal.SIGINT}

log = logging.getLogger(__name__)


def main(
    paths: Paths, port: int, program: Sequence[str] = RANK_PROGRAM, gang_port: int = PROGRESS_PORT
) -> int:
    """Runs one stage and writes the termination message.

    Args:
        paths: the folders of the pod.
        port: port of the HTTP endpoint; 0 selects a free port.
        program: arguments of Python that run a rank.
        gang_port: port of the HTTP endpoint of the pod with index 0.

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

    def make(seconds_left: float, current_round: int) -> Launch:
        return launch(
            config,
            paths,
            node=node,
            cpus=usable_cpus(),
            environment=os.environ,
            seconds_left=seconds_left,
            current_round=current_round,
            program=program,
        )

    try:
        recovery = open_recovery(config, node, gang_port, _progress_key(paths))
        message = supervise(config, paths, make, port, recovery)
    except Exception as error:
        log.exception("the supervisor failed")
        processes.end_descendants()
        text = f"The supervisor failed: {type(error).__name__}: {error}"
        message = compose(config, Verdict(FailureClass.INTERNAL, "SupervisorFailed", text), {})
    return write_message(paths, message)


def supervise(
    config: TrainConfig, paths: Paths, make: MakeLaunch, port: int, recovery: Recovery
) -> TerminationMessage:
    """Starts the ranks, waits for their end or ends them, and classifies the end.

    After a failure that a restart can cure, the ranks of the gang start again in the same pods. The caller
    must have called `processes.take_over`. On return, this process has no descendants.

    Args:
        config: the configuration of the trainer.
        paths: the folders of the pod.
        make: returns the program to start; its arguments are the number of seconds until the start-up
            deadline, and the round.
        port: port of the HTTP endpoint; 0 selects a free port.
        recovery: the part of this pod in the restarts of its gang.

    Returns:
        The termination message of the pod.
    """
    shown = _Shown(Progress(stage=config.stage, attempt=config.attempt))
    endpoint = _serve(config, paths, port, recovery, shown)
    earlier, peak_memory = NOTHING, None
    while True:
        _clear(paths, recovery.round)
        state, verdict = _run(config, paths, make, recovery, peak_memory, earlier)
        earlier, peak_memory = replace(earlier, restarts=recovery.restarts), state.peak_memory
        told_to_end = _keep_evidence(config, paths, verdict, state.tail, recovery.round)
        step = _next_step(recovery, told_to_end=told_to_end)
        if step is not Step.START:
            break
        earlier = earlier.after(state.files)
        recovery.start()
        shown.keep(paths)
        log.info("restarting in place: round %d", recovery.round)
    recovery.close()
    if endpoint:
        endpoint.close()
    if step is None and verdict.failure is FailureClass.COMMUNICATION:
        verdict = PREEMPTED
    return compose(config, verdict, state.files, peak_memory, earlier)


def _run(
    config: TrainConfig,
    paths: Paths,
    make: MakeLaunch,
    recovery: Recovery,
    peak_memory: int | None,
    earlier: Reached,
) -> tuple[PodState, Verdict]:
    """Runs one round: starts the ranks, waits for their end or ends them, and reports the cause."""
    killed_before = oom_kills()
    launched = make(config.rendezvous.startup_deadline_seconds, recovery.round)
    state = PodState(launched, LogTail(), peak_memory=peak_memory)
    try:
        _watch(config, paths, state, make, recovery)
    finally:
        limit = processes.END_SECONDS if state.sigterm_time is None else SAFETY_SECONDS / 2
        stuck = processes.end_descendants(limit)
        state.tail.close()
    if stuck:
        log.warning("these processes did not end after SIGKILL: %s", sorted(stuck))
    state.files = rank_files(paths, state)
    killed = oom_kills()
    rise = None if killed is None or killed_before is None else killed - killed_before
    verdict = classify(observed(state, paths, rise, state.tail.text()))
    recovery.end(
        verdict,
        earlier.after(state.files),
        lost_steps=_lost_steps(earlier, state.files),
        stuck=bool(stuck),
    )
    return state, verdict


def _lost_steps(earlier: Reached, files: Mapping[int, RankFile]) -> int:
    """Optimizer steps of a round after the newest checkpoint, as far as rank 0 of this pod knows; else 0."""
    first = files.get(0)
    if first is None or first.step is None:
        return 0
    saved = earlier.after(files).checkpoint
    return max(0, first.step - (saved.step if saved else 0))


def _next_step(recovery: Recovery, *, told_to_end: bool) -> Step | None:
    """Waits for the order of the gang after the end of the ranks; None: the pod received SIGTERM."""
    while (step := recovery.next_step) is not Step.LEAVE:
        if told_to_end:
            log.info("received SIGTERM: the pod does not restart in place")
            recovery.leave()
            return None
        if step is Step.START:
            return step
        told_to_end = processes.next_signal(TICK_SECONDS) in _END
    return Step.LEAVE


def _watch(config: TrainConfig, paths: Paths, state: PodState, make: MakeLaunch, recovery: Recovery) -> None:
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
        if received in _END:
            recovery.leave()
        left = deadline - time.monotonic()
        if state.child is None and (search is None or search.found.address):
            state.launch = make(left, recovery.round)
            state.child = processes.spawn(state.launch.argv, state.launch.environment, state.tail.write_end)
        refresh(paths, state)
        if state.child_code is not None:
            return
        now = time.monotonic()
        state.silences = update_silences(state.silences, state.files, now - last_refresh)
        last_refresh = now
        if received in _END:
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
        state.stop = state.stop or decide(context) or _stop_with_gang(state, recovery)
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


def _stop_with_gang(state: PodState, recovery: Recovery) -> Stop | None:
    """The decision to end the ranks because another pod has failed; never after SIGTERM."""
    failed = recovery.failed_peer if state.sigterm_time is None else None
    if failed is None:
        return None
    detail = f"index {failed.index} reported {failed.reason} (class {failed.failure})"
    return Stop(StopCause.PEER_FAILED, time.time(), detail=detail)


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


class _Shown:
    """The progress that the endpoint serves.

    Args:
        unknown: the progress before the first heartbeat of rank 0.
    """

    def __init__(self, unknown: Progress) -> None:
        self._unknown = self._earlier = unknown

    def keep(self, paths: Paths) -> None:
        """Keeps the progress of a round that has ended."""
        self._earlier = self.read(paths)

    def read(self, paths: Paths) -> Progress:
        """Reads the progress document of rank 0, and adds the time and the checkpoint of earlier rounds."""
        try:
            read = Progress.model_validate_json(paths.progress.read_bytes())
        except (OSError, ValidationError):
            read = self._unknown
        update: dict[str, object] = {"seconds": total_seconds(self._earlier.seconds, read.seconds)}
        if read.checkpoint_step is None:
            update |= {name: getattr(self._earlier, name) for name in ("checkpoint_step", "checkpoint_time")}
        return read.model_copy(update=update)


def _progress_key(paths: Paths) -> str:
    """The progress key of the pods of this Job; empty if there is none."""
    return paths.progress_key.read_text().strip() if paths.progress_key.exists() else ""


def _serve(
    config: TrainConfig, paths: Paths, port: int, recovery: Recovery, shown: _Shown
) -> Endpoint | None:
    """Starts the HTTP endpoint; None if the port is in use, because a stage can run without progress."""

    def progress() -> Progress:
        return shown.read(paths).model_copy(update={"in_place_restarts": recovery.restarts})

    values = (config.job.namespace, config.job.name, str(config.attempt), config.stage.value)
    labels = dict(zip(GAUGE_LABELS, values, strict=True)) if config.serve_metrics else None
    on_report = recovery.link.serve if isinstance(recovery.link, Coordinator) else None
    try:
        endpoint = Endpoint(port, progress, _progress_key(paths), labels, on_report)
    except OSError as error:
        log.warning("cannot serve progress on port %d: %s", port, error)
        return None
    log.info("%s, attempt %d: progress on port %d", config.stage, config.attempt, endpoint.port)
    return endpoint


def _keep_evidence(
    config: TrainConfig, paths: Paths, verdict: Verdict, tail: LogTail, current_round: int
) -> bool:
    """Uploads the diagnostic files of a failed pod within EVIDENCE_SECONDS; a failure is only logged.

    After success and preemption there is no failure to diagnose, and after a storage failure no upload works.

    Returns:
        Whether the pod received SIGTERM during the upload, which ends the upload.
    """
    if verdict.failure in {FailureClass.SUCCESS, FailureClass.PREEMPTED, FailureClass.STORAGE}:
        return False
    tail.save(paths.scratch / "log-tail.txt")
    if not paths.credentials("output").is_dir():
        return False
    argv = (sys.executable, "-m", "finetune_trainer.pod.evidence", "--root", str(paths.root))
    output = LogTail()
    child = processes.spawn(argv, with_round(os.environ, current_round), output.write_end)
    told_to_end = False
    deadline = time.monotonic() + EVIDENCE_SECONDS
    while (code := processes.reap().get(child)) is None and time.monotonic() < deadline:
        if told_to_end := processes.next_signal(TICK_SECONDS) in _END:
            break
    if code != 0:
        log.warning("cannot store the diagnostic files of attempt %d", config.attempt)
    processes.end_descendants()
    output.close()
    return told_to_end


def _clear(paths: Paths, current_round: int) -> None:
    """Deletes the files of an earlier container or an earlier round, so that this round does not read them.

    The caches of model and data stay. The shared memory of a pod has no other users than its ranks.
    """
    if paths.scratch.exists():
        shutil.rmtree(paths.scratch)
    for folder in (paths.ranks, paths.stacks, paths.errors):
        folder.mkdir(parents=True)
    if current_round and paths.shared_memory.is_dir():
        _empty(paths.shared_memory)


def _empty(folder: Path) -> None:
    """Deletes the content of a folder, as far as possible; a failure is only logged."""
    for entry in folder.iterdir():
        try:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot delete %s of the round before: %s", entry, error)

"""The state of a pod as observed by its supervisor: child process, rank files, ended processes."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from finetune_trainer.contract import RankFile
from finetune_trainer.paths import Paths
from finetune_trainer.pod import processes
from finetune_trainer.pod.cgroup import used_memory
from finetune_trainer.pod.classify import Death, Observed
from finetune_trainer.pod.launch import Launch
from finetune_trainer.pod.logtail import LogTail
from finetune_trainer.pod.watchdog import Silence, Stop


@dataclass
class PodState:
    """The state of this pod. Only the main thread of the supervisor changes the state."""

    launch: Launch
    """The program of this pod."""
    tail: LogTail
    """The output of the program."""
    child: int | None = None
    """Pid of the program; None before its start."""
    child_code: int | None = None
    """Exit code of the program, or the negative signal number; None while the program runs."""
    child_ended: float = 0.0
    """Unix time at which the supervisor observed the end of the program."""
    files: dict[int, RankFile] = field(default_factory=dict)
    """Latest rank files by global rank."""
    silences: dict[int, Silence] = field(default_factory=dict)
    """Time since the latest heartbeat, by global rank."""
    gone: dict[int, float] = field(default_factory=dict)
    """Ranks whose process has ended: global rank -> Unix time of the observation."""
    sigterm_time: float | None = None
    """Unix time of the first SIGTERM."""
    peak_memory: int | None = None
    """Greatest memory of the pod so far in bytes, see `cgroup.used_memory`; None if unknown."""
    stop: Stop | None = None
    """The decision to end the ranks."""


def refresh(paths: Paths, state: PodState) -> None:
    """Updates exit codes, rank files and ended processes in the state.

    Args:
        paths: the folders of the pod.
        state: the state to update.
    """
    now = time.time()
    exits = processes.reap()
    if state.child in exits:
        state.child_code, state.child_ended = exits[state.child], now
    state.files = rank_files(paths, state)
    used = used_memory()
    if used is not None:
        state.peak_memory = max(used, state.peak_memory or 0)
    for rank, file in state.files.items():
        if rank not in state.gone and not processes.alive(file.pid):
            state.gone[rank] = now


def rank_files(paths: Paths, state: PodState) -> dict[int, RankFile]:
    """Reads the rank files of this pod.

    Args:
        paths: the folders of the pod.
        state: the latest state; its content replaces a file that cannot be read.

    Returns:
        Rank files by global rank; a rank that has not written a file is missing.
    """
    files = {}
    for rank in state.launch.ranks:
        try:
            files[rank] = RankFile.model_validate_json((paths.ranks / f"{rank}.json").read_bytes())
        except (OSError, ValidationError):
            if rank in state.files:
                files[rank] = state.files[rank]
    return files


def observed(state: PodState, paths: Paths, oom: int | None, tail: str) -> Observed:
    """The observations at the end of the pod, as the input of `classify`.

    Args:
        state: the last state.
        paths: the folders of the pod, with the report of torchrun.
        oom: OOM kills in this container since the start of the round; None if unknown.
        tail: last lines of the log.
    """
    report = _agent_report(paths)
    deaths = []
    if state.launch.agent:
        for death in report.get("deaths", []):
            rank = int(death["rank"])
            if state.stop is None or rank in state.gone:
                time_seen = state.gone.get(rank, float(death["time"]))
                deaths.append(Death(rank, int(death["code"]), time_seen))
        if state.child_code is not None and not report:
            deaths.append(Death(None, state.child_code, state.child_ended))
    elif state.child_code is not None:
        deaths.append(Death(state.launch.ranks[0], state.child_code, state.child_ended))
    return Observed(
        expected=state.launch.ranks,
        files=state.files,
        now=time.time(),
        deaths=deaths,
        oom_kills=oom,
        sigterm_time=state.sigterm_time,
        stop=state.stop,
        agent_error=report.get("error"),
        needs_rendezvous=state.launch.needs_rendezvous,
        tail=tail,
    )


def _agent_report(paths: Paths) -> dict[str, Any]:
    try:
        report = json.loads(paths.agent.read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}

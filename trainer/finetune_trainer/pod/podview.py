"""What the supervisor sees of its pod: the child it started, rank files, processes that are gone."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from finetune_trainer.contract import RankFile
from finetune_trainer.paths import Paths
from finetune_trainer.pod import processes
from finetune_trainer.pod.classify import Death, Observed
from finetune_trainer.pod.launch import Launch
from finetune_trainer.pod.watchdog import Silence, Stop


@dataclass
class PodView:
    """What is known about this pod's ranks; only the supervisor's main thread writes it."""

    launch: Launch
    child: int | None = None
    child_code: int | None = None
    child_ended: float = 0.0
    files: dict[int, RankFile] = field(default_factory=dict)
    silent: dict[int, Silence] = field(default_factory=dict)
    gone: dict[int, float] = field(default_factory=dict)
    leaving_since: float | None = None
    stop: Stop | None = None


def look(paths: Paths, view: PodView) -> None:
    """Brings the picture up to date: exits, rank files, processes that are gone."""
    now = time.time()
    exits = processes.reap()
    if view.child in exits:
        view.child_code, view.child_ended = exits[view.child], now
    view.files = rank_files(paths, view)
    for rank, file in view.files.items():
        if rank not in view.gone and not processes.alive(file.pid):
            view.gone[rank] = now


def rank_files(paths: Paths, view: PodView) -> dict[int, RankFile]:
    """What the ranks say; a file that cannot be read keeps its last content."""
    files = {}
    for rank in view.launch.ranks:
        try:
            files[rank] = RankFile.model_validate_json((paths.ranks / f"{rank}.json").read_bytes())
        except (OSError, ValidationError):
            if rank in view.files:
                files[rank] = view.files[rank]
    return files


def observed(view: PodView, paths: Paths, oom: int | None, tail: str) -> Observed:
    """All that is known at the end, for `classify`.

    Args:
        view: the last picture.
        paths: where torchrun's report lies.
        oom: processes of this container that the kernel killed for memory since the start, if it says so.
        tail: last lines of the log.
    """
    report = _agent_report(paths)
    deaths = []
    if view.launch.agent:
        for death in report.get("deaths", []):
            rank = int(death["rank"])
            if view.stop is None or rank in view.gone:
                time_seen = view.gone.get(rank, float(death["time"]))
                deaths.append(Death(rank, int(death["code"]), time_seen))
        if view.child_code is not None and not report:
            deaths.append(Death(None, view.child_code, view.child_ended))
    elif view.child_code is not None:
        deaths.append(Death(view.launch.ranks[0], view.child_code, view.child_ended))
    return Observed(
        expected=view.launch.ranks,
        files=view.files,
        now=time.time(),
        deaths=deaths,
        oom_kills=oom,
        asked_to_leave=view.leaving_since,
        stop=view.stop,
        agent_error=report.get("error"),
        meets=view.launch.meets,
        tail=tail,
    )


def _agent_report(paths: Paths) -> dict[str, Any]:
    try:
        report = json.loads(paths.agent.read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}

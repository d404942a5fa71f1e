"""Writes the JSON of each dashboard: `python -m dashboards FOLDER`; `make generate` calls this program."""

import json
import sys
from pathlib import Path

from dashboards import capacity, fleet, job, operator
from dashboards.grafana import render
from dashboards.model import Dashboard

BOARDS: dict[str, Dashboard] = {
    "fleet": fleet.BOARD,
    "job": job.BOARD,
    "operator": operator.BOARD,
    "capacity": capacity.BOARD,
}
"""By the name of the file."""


def document(board: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(render(board), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Writes one file for each dashboard, and deletes the files of dashboards that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        if old.stem not in BOARDS:
            old.unlink()
    for name, board in BOARDS.items():
        (folder / f"{name}.json").write_text(document(board))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

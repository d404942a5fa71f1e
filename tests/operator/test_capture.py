"""python -m tests.operator.capture, with a kubectl that prints saved JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.names import LABEL_UID
from finetune_operator.objects import Manifest
from tests.operator.capture import capture
from tests.operator.cases import GOLDEN, NOW, all_expanded, default, read_all, read_case
from tests.operator.plan_text import shown

KUBECTL = """#!/bin/sh
cd "$(dirname "$0")" || exit 1
case "$*" in
  "get finetunejobs.finetune.dev tickets -n demo --ignore-not-found -o json") cat job.json ;;
  "get finetunejobs.finetune.dev languages -n demo --ignore-not-found -o json") cat base.json ;;
  "get jobs.batch,pods,"*" -n demo -l finetune.dev/job-uid=0b5c3f1e-"*" -o json") cat own.json ;;
  "get events -n demo -o json") cat events.json ;;
  "get namespaces demo "*) cat namespace.json ;;
  "get configmaps -A -l app.kubernetes.io/part-of=finetune-operator -o json") cat settings.json ;;
  "get "*" --ignore-not-found -o json") test ! -e "$2-$3.json" || cat "$2-$3.json" ;;
  *) echo "unexpected: kubectl $*" >&2; exit 1 ;;
esac
"""


class Cluster:
    """Answers of kubectl, from a golden case."""

    def __init__(self, folder: Path, case: str) -> None:
        self.folder = folder
        (self.job,) = all_expanded(read_all(GOLDEN / case / "job.yaml"))
        objects = list(all_expanded(read_all(GOLDEN / case / "observed.yaml")[0]["items"]))
        for each in (self.job, *objects):
            each["metadata"] |= {"managedFields": [{"manager": "somebody"}]}
        self.own = [o for o in objects if LABEL_UID in o["metadata"].get("labels", {})]
        self.events = [o for o in objects if o["kind"] == "Event"]
        self.base = [o for o in objects if o["kind"] == "FineTuneJob"]
        self.settings: Manifest = {}

    def write(self) -> None:
        settings = json.dumps({"trainerImage": "registry/trainer:1"} | self.settings)
        answers: dict[str, Any] = {
            "job": self.job,
            "own": {"items": self.own},
            "events": {"items": self.events},
            "namespace": default("namespace"),
            "settings": {"items": [{"data": {"settings.yaml": settings}}]},
        }
        for name, answer in answers.items():
            self.answer(name, answer)
        for base in self.base:
            self.answer("base", base)
        (self.folder / "kubectl").write_text(KUBECTL)
        (self.folder / "kubectl").chmod(0o755)

    def answer(self, name: str, document: Any) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(document))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first in PATH."""
    made = tmp_path / "bin"
    made.mkdir()
    monkeypatch.setenv("PATH", f"{made}:/usr/bin:/bin")
    return made


@pytest.mark.parametrize(
    "case", ["config-map-missing", "gang-is-replaced-by-attempt-2", "base-job-succeeded-prepare-begins"]
)
def test_a_captured_case_has_the_plan_of_the_cluster(case: str, path: Path, tmp_path: Path) -> None:
    Cluster(path, case).write()
    folder = tmp_path / "new"

    capture("demo", "tickets", folder, NOW)

    assert read_all(folder / "plan.yaml") == read_all(GOLDEN / case / "plan.yaml")
    assert shown(read_case(folder).plan()) == shown(read_case(GOLDEN / case).plan())
    assert "managedFields" not in (folder / "job.yaml").read_text() + (folder / "observed.yaml").read_text()


def test_a_captured_case_has_the_settings_and_objects_of_others(path: Path, tmp_path: Path) -> None:
    cluster = Cluster(path, "new-job")
    cluster.settings = {"requireTls": False}
    cluster.write()
    made = read_case(GOLDEN / "new-job").plan()
    name = made.apply[0]["metadata"]["name"]
    metadata = {"name": name, "namespace": "demo", "uid": "u", "annotations": {"secret": "text"}}
    foreign = {"apiVersion": "v1", "kind": "NetworkPolicy", "metadata": metadata}
    cluster.answer(f"NetworkPolicy-{name}", foreign)

    capture("demo", "tickets", tmp_path / "new", NOW)

    captured = read_case(tmp_path / "new")
    assert captured.settings.require_tls is False
    assert ("NetworkPolicy", name) in captured.observed.foreign
    assert "secret: text" not in (tmp_path / "new/observed.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tickets"], "tickets is not of the form NAMESPACE/NAME"),
        (["demo/other", "new"], "FineTuneJob demo/other does not exist"),
        (["demo/tickets", "."], ". exists"),
    ],
)
def test_the_command_says_why_no_case_is_written(
    arguments: list[str], says: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster(path, "new-job").write()
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    command = [sys.executable, "-m", "tests.operator.capture", *arguments]

    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ran.returncode != 0
    assert says in ran.stderr

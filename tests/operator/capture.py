"""Writes a golden case from a cluster: `python -m tests.operator.capture NAMESPACE/NAME [FOLDER]`.

kubectl reads the cluster that KUBECONFIG names. The objects keep only the fields that the operator reads.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml

from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.planning.pending import ask_about
from finetune_operator.runtime.cluster import typed
from finetune_operator.settings import Settings
from tests.operator.cases import GOLDEN, Context, case_of, read_case, text_of
from tests.operator.plan_text import shown

JOBS = "finetunejobs.finetune.dev"
CHILDREN = "jobs.batch,pods,services,networkpolicies.networking.k8s.io,controllerrevisions.apps"
OPERATOR = "app.kubernetes.io/part-of=finetune-operator"


def capture(namespace: str, name: str, folder: Path, now: datetime) -> None:
    """Writes job.yaml, observed.yaml and plan.yaml for a FineTuneJob.

    Raises:
        FileExistsError: the folder exists.
        LookupError: the cluster has no such FineTuneJob.
    """
    job = next((typed(KIND, found) for found in _named(namespace, JOBS, name)), None)
    if job is None:
        raise LookupError(f"FineTuneJob {namespace}/{name} does not exist")
    own = _list(CHILDREN, "-n", namespace, "-l", f"{LABEL_UID}={job['metadata']['uid']}")
    objects = [typed(found["kind"], found) for found in own]
    jobs, pods = ([o for o in objects if o["kind"] == kind] for kind in ("Job", "Pod"))
    about = {uid for uids in ask_about(jobs, pods, now) for uid in uids}
    told = _list("events", "-n", namespace) if about else []
    objects += [_event(found) for found in told if found["involvedObject"].get("uid") in about]
    if base := (job["spec"]["model"].get("fromJob") or {}).get("name"):
        objects += [typed(KIND, found) for found in _named(namespace, JOBS, base)]
    objects += [_identity(found) for found in _named(namespace, "namespaces", namespace)]

    context: Manifest = {"now": now.isoformat(), "settings": _settings()}
    made = case_of(job, objects, Context.model_validate(context)).plan()
    for wanted in (*made.apply, *made.create):
        there = _named(namespace, wanted["kind"], wanted["metadata"]["name"])
        # Of somebody else, and in the way.
        objects += [_identity(found) for found in there if _label(found) != job["metadata"]["uid"]]

    folder.mkdir()
    (folder / "job.yaml").write_text(text_of(job))
    (folder / "observed.yaml").write_text(text_of({"kind": "List", "items": objects}, context))
    (folder / "plan.yaml").write_text(text_of(shown(read_case(folder).plan())))


def _named(namespace: str, kind: str, name: str) -> list[Manifest]:
    """The object of that name; empty where there is none."""
    text = _kubectl("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "json")
    return [json.loads(text)] if text.strip() else []


def _list(*arguments: str) -> list[Manifest]:
    items: list[Manifest] = json.loads(_kubectl("get", *arguments, "-o", "json"))["items"]
    return items


def _settings() -> Manifest:
    """The settings of the operator, as far as they are not the default; empty where it is not installed."""
    found = _list("configmaps", "-A", "-l", OPERATOR)
    texts = [text for each in found if (text := (each.get("data") or {}).get("settings.yaml"))]
    if not texts:
        return {}
    read = Settings.model_validate(yaml.safe_load(texts[0]))
    changes: Manifest = read.model_dump(mode="json", exclude_defaults=True)
    return changes


def _kubectl(*arguments: str) -> str:
    return subprocess.run(["kubectl", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def _event(found: Manifest) -> Manifest:
    about = {key: found["involvedObject"].get(key) for key in ("kind", "name", "uid")}
    return typed("Event", found) | {"involvedObject": about}


def _identity(found: Manifest) -> Manifest:
    """An object without its content, which may be confidential."""
    meta = found["metadata"]
    metadata = {key: meta[key] for key in ("name", "namespace", "uid") if key in meta}
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata}


def _label(found: Manifest) -> str | None:
    return (found["metadata"].get("labels") or {}).get(LABEL_UID)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.operator.capture", description=__doc__)
    parser.add_argument("job", metavar="NAMESPACE/NAME")
    parser.add_argument("folder", nargs="?", type=Path, help="default: tests/operator/planning/golden/NAME")
    given = parser.parse_args()
    namespace, slash, name = given.job.partition("/")
    if not (namespace and slash and name):
        parser.error(f"{given.job} is not of the form NAMESPACE/NAME")
    folder = given.folder or GOLDEN / name
    try:
        capture(namespace, name, folder, datetime.now(UTC).replace(microsecond=0))
    except subprocess.CalledProcessError as error:
        sys.exit(f"kubectl failed with exit code {error.returncode}")
    except FileExistsError:
        sys.exit(f"{folder} exists; name another folder or remove {folder}")
    except LookupError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()

"""Golden cases of planning: Kubernetes objects as kubectl prints them. See planning/golden/README.md."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from finetune_operator.api import FineTuneJob
from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.planning.plan import plan
from finetune_operator.planning.types import Observed, Plan
from finetune_operator.runtime.model_dependencies import base_job
from finetune_operator.settings import Settings
from finetune_trainer.contract import Progress

GOLDEN = Path(__file__).parent / "planning/golden"
DEFAULTS = GOLDEN / "defaults"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/job.yaml"))
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class Context(BaseModel):
    """The document of observed.yaml without a kind: observations that are no Kubernetes object."""

    model_config = ConfigDict(extra="forbid")

    now: datetime = NOW
    settings: dict[str, Any] = {}
    """Changes to the default settings of the operator."""
    progress: Progress | None = None
    refused: str | None = None
    """The answer of the API server that refused the last write."""


@dataclass(frozen=True)
class Case:
    """The input of plan()."""

    job: FineTuneJob
    observed: Observed
    settings: Settings
    now: datetime

    def plan(self) -> Plan:
        """The plan for the case."""
        return plan(self.job, self.observed, self.settings, self.now)


def read_case(folder: Path) -> Case:
    """The case in a folder: job.yaml and observed.yaml."""
    (job,) = (expanded(document, {}) for document in read_all(folder / "job.yaml"))
    context, written = Context(), []
    for document in read_all(folder / "observed.yaml"):
        if document.get("kind") == "List":
            written += document["items"]
        elif "kind" in document or "from" in document:
            written.append(document)
        else:
            context = Context.model_validate(document)
    return case_of(job, list(all_expanded(written)), context)


def case_of(job: Manifest, objects: list[Manifest], context: Context) -> Case:
    """The input of plan() for a FineTuneJob, the objects in its namespace, and the context."""
    made = FineTuneJob.model_validate(job)
    run = made.metadata["uid"]

    def is_own(found: Manifest) -> bool:
        labels: Manifest = found["metadata"].get("labels") or {}
        return bool(labels.get(LABEL_UID) == run)

    def own(kind: str) -> tuple[Manifest, ...]:
        return tuple(found for found in objects if found["kind"] == kind and is_own(found))

    def others(kind: str) -> tuple[Manifest, ...]:
        return tuple(found for found in objects if found["kind"] == kind and not is_own(found))

    base = made.spec.model.from_job
    shown = [base_job(found) for found in others(KIND) if base and found["metadata"]["name"] == base.name]
    namespace, *_ = (*others("Namespace"), default("namespace"))
    observed = Observed(
        jobs=own("Job"),
        pods=own("Pod"),
        services=own("Service"),
        network_policies=own("NetworkPolicy"),
        cleanup_records=own("ControllerRevision"),
        namespace_uid=namespace["metadata"]["uid"],
        foreign=frozenset(
            (kind, found["metadata"]["name"])
            for kind in ("Job", "Service", "NetworkPolicy", "ControllerRevision")
            for found in others(kind)
        ),
        refused=context.refused,
        events=others("Event"),
        progress=context.progress,
        base=shown[0] if shown else None,
    )
    return Case(made, observed, settings(context.settings), context.now)


def all_expanded(written: list[Manifest]) -> Iterator[Manifest]:
    """Objects with their defaults; a Pod may take its template from a Job that stands before the Pod."""
    jobs: dict[str, Manifest] = {}
    for each in written:
        made = expanded(each, jobs)
        if made["kind"] == "Job":
            jobs[made["metadata"]["name"]] = made
        yield made


def expanded(written: Manifest, jobs: dict[str, Manifest]) -> Manifest:
    """An object with its defaults. `from` names them, a later name wins over an earlier.

    A default is defaults/<name>.yaml. The default of a Pod may also be a Job of the case, by the Job's name:
    the Pod then has the metadata and the spec that the Job controller gives to the pods of that Job.
    """
    names = written.get("from", [])
    result: Manifest = {}
    for name in [names] if isinstance(names, str) else names:
        found = jobs.get(name) or default(name)
        wants_pod = written.get("kind") == "Pod" and found["kind"] == "Job"
        result = merged(result, pod_of(found) if wants_pod else found)
    changed: Manifest = merged(result, {key: value for key, value in written.items() if key != "from"})
    return changed


def pod_of(job: Manifest) -> Manifest:
    """A pod as the Job controller makes it, without name, index and status."""
    meta, template = job["metadata"], job["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": meta["namespace"],
            "creationTimestamp": meta["creationTimestamp"],
            "labels": template["metadata"]["labels"] | {"batch.kubernetes.io/controller-uid": meta["uid"]},
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        },
        "spec": template["spec"],
    }


@cache
def default(name: str) -> Manifest:
    """The object in defaults/<name>.yaml."""
    document: Manifest
    (document,) = read_all(DEFAULTS / f"{name}.yaml")
    return document


IMAGES = {"trainer_image": "registry/trainer:1", "slim_trainer_image": "registry/trainer-slim:1"}


def settings(changes: Manifest | None = None) -> Settings:
    """The operator's settings with changes."""
    return Settings.model_validate(merged(IMAGES, changes or {}))


def merged(base: Any, changes: Any) -> Any:
    """Deep merge. Null takes a key away; list items with a name are merged by name; anything else replaces.

    A list that names all items also sets their order.
    """
    if _named(base) and _named(changes):
        known, changed = ({item["name"]: item for item in items} for items in (base, changes))
        names = changed if known.keys() <= changed.keys() else known | changed
        return [merged(known.get(name, {}), changed.get(name, {})) for name in names]
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return copy.deepcopy(changes)
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(i, dict) and "name" in i for i in value)


def read_all(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    loaded = yaml.load_all(path.read_text(), PlainDates)
    return [document for document in loaded if document is not None]


class PlainDates(yaml.SafeLoader):
    """Leaves timestamps as text, as the Kubernetes API has them."""


PlainDates.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Readable(yaml.SafeDumper):
    """Long text over several lines, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - of the base class
        return True


def text_of(*documents: Any, flow: bool | None = False) -> str:
    """Documents as YAML. `flow=None` writes the innermost lists and mappings on one line."""
    return yaml.dump_all(
        documents, Dumper=Readable, sort_keys=False, width=105, allow_unicode=True, default_flow_style=flow
    )

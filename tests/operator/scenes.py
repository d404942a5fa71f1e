"""Short words for what a cluster looks like, expanded to the objects that Kubernetes would show.

Jobs come from finetune_operator.rendering, as plan would have created them; pods come from their templates.
"""

import copy
import json
from typing import Any

import yaml

from finetune_operator.api import FineTuneJob
from finetune_operator.objects import Manifest
from finetune_operator.planning.types import Observed
from finetune_operator.rendering import jobs, network, trainer_config
from finetune_operator.rendering.cleanup_record import cleanup_record
from finetune_operator.rendering.metadata import child_name
from finetune_operator.settings import Settings
from finetune_trainer import config as trainer
from finetune_trainer.contract import CONTRACT_VERSION, Chosen, FailureClass, Stage, TerminationMessage
from tests.operator.cases import NOW, merged, settings

__all__ = ["NOW", "merged", "settings"]

UID = "0b5c3f1e-7a52-4d3c-9f5e-2f3a9c1d8e7b"
DIGEST = "sha256:" + "a" * 64
NAMESPACE_UID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
BASE = yaml.safe_load(f"""
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {{name: tickets, namespace: demo, uid: {UID}, generation: 1}}
spec:
  task: TextClassification
  model: {{uri: s3://models/minilm}}
  dataset: {{train: {{uri: s3://data/train.jsonl}}, test: {{uri: s3://data/test.jsonl}}}}
  resources: {{nodes: 2}}
  output: {{uri: s3://models/support/, suffix: v2}}
  storage:
    endpoint: https://minio.storage:9000
    secretRef: {{name: s3-keys}}
    caBundleRef: {{name: company-ca}}
""")
CHOSEN = Chosen(
    epochs=3,
    batch_size=32,
    micro_batch_size=8,
    accumulation_steps=2,
    world_size=2,
    learning_rate=5e-5,
    max_length=64,
    zero_stage=2,
    total_steps=300,
)


def job_of(changes: Manifest | None = None, *, configured: Settings | None = None) -> FineTuneJob:
    """A FineTuneJob like BASE. In its status, `reached` fills in the results up to a stage, and attempts need
    only what matters."""
    document = merged(BASE, {k: v for k, v in (changes or {}).items() if k != "status"})
    short = (changes or {}).get("status")
    job = FineTuneJob.model_validate(document)
    if short is None:
        return job
    run = _run(job, configured or settings())
    status = {k: v for k, v in short.items() if k not in ("reached", "attempts")}
    for stage in reached(short.get("reached")):
        status = merged(_result(run, stage), status)
    status["attempts"] = [_attempt(job, run, a) for a in short.get("attempts", ())]
    return FineTuneJob.model_validate(document | {"status": status})


def reached(stage: str | None) -> list[Stage]:
    """The stages up to one."""
    stages = [Stage.PREPARE, Stage.TRAIN, Stage.PUBLISH]
    return stages[: stages.index(Stage(stage)) + 1] if stage else []


def child(job: FineTuneJob, short: Manifest, configured: Settings) -> Manifest:
    """A Job of ours or a cleanup record: {stage, attempt, made, metadata, spec, status}."""
    asked = asked_of(job, configured)
    stage, number = Stage(short["stage"]), short.get("attempt", 1)
    if stage is Stage.CLEANUP:
        made = cleanup_record(job, asked, number, NAMESPACE_UID)
    else:
        started = stage in (Stage.TRAIN, Stage.PUBLISH)
        made = jobs.stage_job(
            job,
            asked,
            configured,
            stage,
            number,
            chosen=CHOSEN if started else None,
            prepared=DIGEST if started else None,
        )
    made["metadata"] |= {
        "uid": f"uid-{made['metadata']['name']}",
        "creationTimestamp": short.get("made", "2026-01-01T11:50:00Z"),
    }
    changes = {key: short[key] for key in ("metadata", "spec", "status") if key in short}
    changed: Manifest = merged(made, changes)
    if state := changed.get("status", {}).pop("is", None):
        at = {"status": "True", "lastTransitionTime": changed["status"].pop("at", "2026-01-01T11:59:30Z")}
        changed["status"]["conditions"] = [{"type": state, **at}]
    return changed


def stored(manifest: Manifest) -> Manifest:
    """An object as the API server returns it."""
    return merged(manifest, {"metadata": {"uid": f"uid-{manifest['kind']}-{manifest['metadata']['name']}"}})


def asked_of(job: FineTuneJob, configured: Settings) -> trainer_config.ResolvedRun:
    run = _run(job, configured)
    return trainer_config.ResolvedRun(
        run, configured.profiles["default"], trainer_config.spec_digest(job, run)
    )


def pod(job: FineTuneJob, of: Manifest, short: Manifest) -> Manifest:
    """A pod of a Job: {index, is, code, says, at, others, metadata, spec, status}.

    `is`: Pending (no node), Creating, Running, or ended with `code`; `says`: its termination message.
    `others`: injected containers, see `inject`.
    """
    index, name = short.get("index", 0), of["metadata"]["name"]
    template = copy.deepcopy(of["spec"]["template"])
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{index}-x",
            "namespace": job.metadata["namespace"],
            "uid": f"uid-{name}-{index}",
            "creationTimestamp": of["metadata"]["creationTimestamp"],
            "labels": template["metadata"]["labels"]
            | {
                "batch.kubernetes.io/controller-uid": of["metadata"]["uid"],
                "batch.kubernetes.io/job-completion-index": str(index),
            },
            "annotations": template["metadata"]["annotations"],
        },
        "spec": template["spec"] | {"nodeName": f"node-{index}"},
        "status": pod_status(of, short),
    }
    if short.get("is") == "Pending":
        del made["spec"]["nodeName"]
    for other in short.get("others", ()):
        inject(made, other)
    changed: Manifest = merged(
        made, {key: short[key] for key in ("metadata", "spec", "status") if key in short}
    )
    return changed


def inject(pod: Manifest, other: Manifest) -> None:
    """An injected container: {name, kind, is, code, reason, message}.

    `kind`: Sidecar (an ordinary container), NativeSidecar or Init. `is`: Running, Waiting (with `reason` and
    `message`), or ended with `code`. As the kubelet does, statuses are sorted by name, and a pod goes on
    while an ordinary container runs.
    """
    kind, name = other.get("kind", "Sidecar"), other["name"]
    container: Manifest = {"name": name, "image": f"registry/{name}:1"}
    if kind == "NativeSidecar":
        container["restartPolicy"] = "Always"
    if "code" in other:
        ended = {"exitCode": other["code"], "message": other.get("message", "")}
        state: Manifest = {"terminated": ended}
    elif other.get("is") == "Waiting":
        state = {"waiting": {"reason": other["reason"], "message": other.get("message", "")}}
    else:
        state = {"running": {}}
    where, status = (
        ("containers", "containerStatuses")
        if kind == "Sidecar"
        else ("initContainers", "initContainerStatuses")
    )
    pod["spec"][where] = [*pod["spec"].get(where, ()), container]
    told = [*pod["status"].get(status, ()), {"name": name, "state": state}]
    pod["status"][status] = sorted(told, key=lambda each: str(each["name"]))
    if kind == "Sidecar" and "running" in state:
        pod["status"]["phase"] = "Running"


def message(of: Manifest, says: Any) -> str | None:
    """A termination message: `success` (or `success as Report`), the text itself, or its fields; those of a
    payload change what the stage reached."""
    if says is None:
        return None
    config = jobs.config_of(of)
    assert config
    stage = Stage(config.readback_stage) if config.readback_stage else config.stage
    if isinstance(says, str) and not says.startswith("success"):
        return says
    document: Manifest = {
        "contractVersion": CONTRACT_VERSION,
        "stage": stage.value,
        "attempt": config.attempt,
        "configDigest": config.run.digest(),
        "class": FailureClass.SUCCESS.value,
        "reason": "Completed",
        "message": "done",
    }
    if isinstance(says, str):
        document["payload"] = payload(config.run, stage)
        document["stage"] = says.removeprefix("success as ") if " " in says else stage.value
        return TerminationMessage.model_validate(document).encode().decode()
    if "payload" in says:
        document["payload"] = payload(config.run, stage)
    return json.dumps(merged(document, says))


def payload(run: Any, stage: Stage) -> Manifest:
    """What a stage reached."""
    scores = {
        name: {
            "primary": value,
            "metrics": {m: {"value": value, "low": low, "high": high} for m in ("accuracy", "macroF1")},
        }
        for name, low, value, high in (
            ("majority", 0.08, 0.1, 0.12),
            ("baseline", 0.67, 0.72, 0.77),
            ("tuned", 0.75, 0.8, 0.85),
            ("delta", 0.03, 0.08, 0.13),
        )
    }
    match stage:
        case Stage.PREPARE:
            return {
                "kind": "Prepare",
                "dataDigest": DIGEST,
                "modelDigest": DIGEST,
                "prepared": f"{run.runs}prepared/",
                "rows": {"train": 3200, "validation": 400, "test": 400, "dropped": 3},
                "account": {
                    "read": 4003,
                    "leftOut": {"BadRows": 2, "Overlap": 1},
                    "repeated": 5,
                    "columns": 3,
                    "columnsUsed": 2,
                    "classes": 12,
                    "classesLearnt": 12,
                },
                "labels": 12,
                "tokens": 100000,
                "truncatedTokens": 10,
                "parameters": 22713216,
                "chosen": CHOSEN.model_copy(update={"world_size": run.world.size}).model_dump(by_alias=True),
                "findings": {"errors": 3, "warnings": 1},
                "report": f"{run.runs}prepared/report.json",
            }
        case Stage.TRAIN:
            return {
                "kind": "Train",
                "best": {"step": 280, "metric": 0.81},
                "evaluation": {"primaryMetric": "macroF1", "rows": 400, **scores},
                "staging": f"{run.runs}staging/",
                "peakMemoryBytes": 2**30,
                "gpuSeconds": 0,
            }
        case _:
            return {
                "kind": "Publish",
                "uri": run.output,
                "digest": DIGEST,
                "sizeBytes": 90_000_000,
                "report": f"{run.output}report.html",
            }


def observed_of(job: FineTuneJob, short: Manifest, configured: Settings) -> Observed:
    """What is seen: {jobs, shared}.

    Jobs listed with `pods` bring their own. `shared`: which of the run's other objects are there
    (NetworkPolicy, Service, cleanup).
    """
    jobs, pods = [], []
    for each in short.get("jobs", ()):
        made = child(job, each, configured)
        if not each.get("gone"):
            jobs.append(made)
        pods += [pod(job, made, p) for p in each.get("pods", ())]
    shared = short.get("shared", ["NetworkPolicy", "Service", "cleanup"])
    records = (child(job, {"stage": "Cleanup"}, configured),) if "cleanup" in shared else ()
    run = _run(job, configured)
    return Observed(
        jobs=tuple(jobs),
        cleanup_records=records,
        namespace_uid=NAMESPACE_UID,
        pods=tuple(pods),
        services=(stored(network.service(job)),) if "Service" in shared else (),
        network_policies=(
            (stored(network.network_policy(job, run, configured)),) if "NetworkPolicy" in shared else ()
        ),
    )


def _run(job: FineTuneJob, configured: Settings) -> Any:
    profile = configured.profiles["default"]
    try:
        return trainer_config.run(job, profile, _source(job), configured)
    except trainer_config.Unrenderable:
        good = FineTuneJob.model_validate(BASE)
        return trainer_config.run(good, profile, _source(good), configured)


def _source(job: FineTuneJob) -> trainer.ModelSource:
    return trainer.ModelSource(uri=job.spec.model.uri)


def _result(run: Any, stage: Stage) -> Manifest:
    found = payload(run, stage)
    match stage:
        case Stage.PREPARE:
            fields = "prepared rows account labels tokens truncatedTokens findings report"
            data = {name: found[name] for name in fields.split()}
            model = {"baseDigest": DIGEST, "parameters": found["parameters"]}
            return {"data": data | {"digest": DIGEST}, "chosen": found["chosen"], "model": model}
        case Stage.TRAIN:
            training = {
                "bestStep": 280,
                "bestValidation": 0.81,
                "staging": found["staging"],
                "peakMemoryBytes": found["peakMemoryBytes"],
                "gpuSeconds": 0,
            }
            return {"training": training, "evaluation": found["evaluation"]}
        case _:
            model = {"uri": found["uri"], "digest": DIGEST, "sizeBytes": found["sizeBytes"]}
            return {"model": model, "report": found["report"]}


def _attempt(job: FineTuneJob, run: Any, short: Manifest) -> Manifest:
    stage, number = short["stage"], short.get("number", 1)
    name = child_name(job, Stage(stage), number)
    ended = short.get("outcome", "Running") != "Running"
    full = {
        "number": number,
        "generation": job.metadata["generation"],
        "configDigest": run.digest(),
        "specDigest": trainer_config.spec_digest(job, run),
        "job": name,
        "jobUid": f"uid-{name}",
        "startTime": "2026-01-01T11:50:00Z",
        "outcome": "Running",
    } | ({"endTime": "2026-01-01T11:55:00Z"} if ended else {})
    return full | short


def pod_status(of: Manifest, short: Manifest) -> Manifest:
    began, at = short.get("began", "2026-01-01T11:50:10Z"), short.get("at", "2026-01-01T11:59:30Z")
    scheduled = {"type": "PodScheduled", "status": "True"}
    if "code" in short:
        ended: Manifest = {"exitCode": short["code"], "finishedAt": at}
        if (text := message(of, short.get("says"))) is not None:
            ended["message"] = text
        return {
            "phase": "Failed" if short["code"] else "Succeeded",
            "startTime": began,
            "conditions": [scheduled],
            "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
        }
    match short.get("is", "Running"):
        case "Pending":
            return {"phase": "Pending"}
        case "Creating":
            waiting = {"waiting": {"reason": "ContainerCreating"}}
            return {
                "phase": "Pending",
                "startTime": began,
                "conditions": [scheduled],
                "containerStatuses": [{"name": "trainer", "state": waiting}],
            }
        case "Failed":
            return {"phase": "Failed", "startTime": began, "conditions": [scheduled]}
        case _:
            return {
                "phase": "Running",
                "podIP": "10.0.0.9",
                "startTime": began,
                "conditions": [scheduled],
                "containerStatuses": [{"name": "trainer", "state": {"running": {"startedAt": began}}}],
            }


def event(short: Manifest) -> Manifest:
    return {
        "metadata": {"name": "e", "namespace": "demo"},
        "involvedObject": {"uid": f"uid-{short['about']}"},
        "reason": short["reason"],
        "message": short["message"],
        "lastTimestamp": short.get("at", "2026-01-01T11:59:50Z"),
    }

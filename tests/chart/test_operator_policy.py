"""What the operator's own account may write, tried as that account on a real API server.

The account gets every verb on the kinds of the policies, so that only the policies refuse.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from finetune_operator import names
from finetune_operator.objects import Manifest
from finetune_operator.rendering import jobs, network
from finetune_operator.rendering.cleanup_record import cleanup_record, read_record
from finetune_operator.settings import Settings
from finetune_trainer.contract import Stage
from tests.chart.cluster import NAMESPACE, OPERATOR, Cluster, installed
from tests.chart.conftest import helm_template
from tests.operator import scenes

VALUES = (
    'trainer.image.repository="reg.example:5000/team/finetune-trainer"',
    'trainer.slimImage.repository="reg.example:5000/team/finetune-trainer-slim"',
    'settings.profiles.gpu={"ipcLock":true,"trainerImage":"gpu-trainer@sha256:%s"}' % ("a" * 64),
    'admissionPolicy.operator={"imageRepositories":["mirror/trainer"],"secretNames":["s3-*","keys"]}',
)
EVERY_VERB = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: every-verb}
rules:
  - {apiGroups: [batch, apps, networking.k8s.io, finetune.dev, ""], verbs: ["*"],
     resources: [jobs, controllerrevisions, networkpolicies, services, finetunejobs, configmaps]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: every-verb}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: every-verb}
subjects: [{kind: ServiceAccount, name: finetune-operator, namespace: finetune-system}]
"""
REFUSED = "ValidatingAdmissionPolicy 'finetune-operator-own-"
OF_OTHERS = {"app": "bank"}
POD = "spec template spec"
CONTAINER = f"{POD} containers 0"

pytestmark = pytest.mark.api


def settings() -> Settings:
    documents = yaml.safe_load_all(helm_template(*VALUES))
    config = next(d for d in documents if d and d["kind"] == "ConfigMap")
    return Settings.model_validate(yaml.safe_load(config["data"]["settings.yaml"]))


def made(
    stage: Stage = Stage.TRAIN, profile: str = "default", configured: Settings | None = None
) -> Manifest:
    """A Job as the operator makes the Job."""
    configured = configured or settings()
    job = scenes.job_of(
        {"metadata": {"namespace": NAMESPACE}, "spec": {"resources": {"profile": profile, "gpusPerNode": 2}}}
    )
    asked = replace(scenes.asked_of(job, configured), profile=configured.profiles[profile])
    if stage is Stage.CLEANUP:
        return jobs.cleanup_job(read_record(cleanup_record(job, asked, 1, "uid")), configured)
    done = (
        {"chosen": scenes.CHOSEN, "prepared": scenes.DIGEST} if stage in (Stage.TRAIN, Stage.PUBLISH) else {}
    )
    readback = (Stage.TRAIN, 1) if stage is Stage.READBACK else None
    return jobs.stage_job(job, asked, configured, stage, 1, readback=readback, **done)


def run_object(kind: str) -> Manifest:
    configured = settings()
    job = scenes.job_of({"metadata": {"namespace": NAMESPACE}})
    if kind == "Service":
        return network.service(job)
    if kind == "NetworkPolicy":
        return network.network_policy(job, scenes.asked_of(job, configured).run, configured)
    return cleanup_record(job, scenes.asked_of(job, configured), 1, "uid")


def changed(manifest: Manifest, path: str, value: Any) -> Manifest:
    """A manifest with one value set, or taken away with None; the path has blanks, and numbers of items."""
    document = json.loads(json.dumps(manifest))
    *parents, last = path.split(" ")
    here: Any = document
    for key in parents:
        here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
    if value is None:
        del here[last]
    elif isinstance(here, list):
        here.append(value)
    else:
        here[last] = value
    return document


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    forbidden = [
        changed(made(), "metadata labels", OF_OTHERS),
        changed(made(), f"{POD} hostPID", True),
        changed(run_object("Service"), "metadata labels", OF_OTHERS),
        changed(run_object("Service"), "spec selector", {"app": "bank"}),
        changed(run_object("NetworkPolicy"), "spec podSelector", {}),
    ]

    def enforced(cluster: Cluster) -> bool:
        cluster.done("apply", "-f", "-", stdin=EVERY_VERB)
        return all(cluster.write("create", manifest, OPERATOR, "--dry-run=server") for manifest in forbidden)

    with installed(tmp_path_factory.mktemp("chart"), enforced, *VALUES) as cluster:
        yield cluster


OTHER_UID = "99999999-7a52-4d3c-9f5e-2f3a9c1d8e7b"
JOBS: list[tuple[str, Any, str]] = [
    ("metadata labels", OF_OTHERS, REFUSED),
    ("spec template metadata labels", {}, "have the label finetune.dev/job-uid"),
    (f"spec template metadata labels {names.LABEL_UID}", OTHER_UID, "have the label finetune.dev/job-uid"),
    (f"{POD} automountServiceAccountToken", True, "no token of a service account"),
    (f"{POD} automountServiceAccountToken", None, "no token of a service account"),
    (f"{POD} serviceAccountName", "admin", "no token of a service account"),
    (f"{POD} hostNetwork", True, "share nothing with the node"),
    (f"{POD} hostPID", True, "share nothing with the node"),
    (f"{POD} hostIPC", True, "share nothing with the node"),
    (f"{POD} nodeName", "control-plane", "share nothing with the node"),
    (f"{POD} hostAliases", [{"ip": "10.0.0.1", "hostnames": ["minio"]}], "share nothing with the node"),
    (f"{POD} initContainers", [{"name": "i", "image": "gpu-trainer"}], "have one container"),
    (f"{POD} containers -", {"name": "second", "image": "gpu-trainer"}, "have one container"),
    (f"{CONTAINER} image", "evil/image", "run the images of the settings, not evil/image"),
    (f"{CONTAINER} image", "reg.example:5000/team/finetune-trainer-evil:1", "run the images of the settings"),
    (f"{CONTAINER} image", "gpu-trainer:5000/evil:1", "run the images of the settings"),
    (f"{CONTAINER} image", "gpu-trainer/evil", "run the images of the settings"),
    (f"{CONTAINER} command", ["sh", "-c", "cat /var/run/finetune/*"], "run the entrypoint"),
    (f"{CONTAINER} args", ["--help"], "run the entrypoint"),
    (f"{CONTAINER} lifecycle", {"preStop": {"exec": {"command": ["sh"]}}}, "run the entrypoint"),
    (f"{CONTAINER} livenessProbe", {"exec": {"command": ["sh"]}}, "without probes"),
    (f"{CONTAINER} envFrom", [{"secretRef": {"name": "any"}}], "environment from Secrets"),
    (
        f"{CONTAINER} env -",
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "any", "key": "k"}}},
        "environment from Secrets",
    ),
    (f"{CONTAINER} ports 0 hostPort", 80, "host ports"),
    (f"{CONTAINER} securityContext", {"privileged": True}, "neither root nor privileged"),
    (f"{CONTAINER} securityContext", None, "neither root nor privileged"),
    (f"{CONTAINER} securityContext allowPrivilegeEscalation", None, "neither root nor privileged"),
    (f"{CONTAINER} securityContext capabilities add", ["SYS_ADMIN"], "neither root nor privileged"),
    (
        f"{CONTAINER} securityContext capabilities add",
        ["IPC_LOCK", "SYS_ADMIN"],
        "neither root nor privileged",
    ),
    (f"{CONTAINER} securityContext runAsUser", 0, "neither root nor privileged"),
    (f"{CONTAINER} securityContext readOnlyRootFilesystem", False, "neither root nor privileged"),
    (f"{POD} securityContext runAsUser", 0, "neither root nor privileged"),
    (f"{POD} securityContext runAsNonRoot", False, "neither root nor privileged"),
    (f"{POD} securityContext seccompProfile type", "Unconfined", "neither root nor privileged"),
    (f"{POD} securityContext supplementalGroups", [0], "neither root nor privileged"),
    (f"{POD} volumes -", {"name": "host", "hostPath": {"path": "/"}}, "volumes of the kinds"),
    (
        f"{POD} volumes -",
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        "volumes of the kinds",
    ),
    (
        f"{POD} volumes -",
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        "volumes of the kinds",
    ),
    (
        f"{POD} volumes -",
        {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
        "volumes of the kinds",
    ),
    (f"{POD} volumes -", {"name": "csi", "csi": {"driver": "vault"}}, "volumes of the kinds"),
    (f"{POD} volumes -", {"name": "bank", "secret": {"secretName": "bank"}}, "s3-*, keys"),
    (
        f"{POD} volumes -",
        {"name": "bank", "projected": {"sources": [{"secret": {"name": "bank"}}]}},
        "s3-*, keys",
    ),
    (f"{POD} volumes -", {"name": "bank", "secret": {"secretName": "keys-2"}}, "s3-*, keys"),
]


def create(cluster: Cluster, manifest: Manifest, user: str = OPERATOR) -> str:
    return cluster.write("create", manifest, user, "--dry-run=server")


@pytest.mark.parametrize("stage", [*Stage])
@pytest.mark.parametrize("profile", ["default", "gpu"])
def test_every_job_of_the_operator_is_allowed(cluster: Cluster, stage: Stage, profile: str) -> None:
    assert not create(cluster, made(stage, profile))


def test_no_capability_is_permitted_without_a_profile_that_needs_it() -> None:
    without = [value for value in VALUES if "ipcLock" not in value]
    assert "IPC_LOCK" in helm_template(*VALUES)
    assert "IPC_LOCK" not in helm_template(*without)


def test_images_of_further_repositories_are_allowed(cluster: Cluster) -> None:
    for image in ("mirror/trainer", "mirror/trainer:2", f"mirror/trainer:2@sha256:{'b' * 64}"):
        assert not create(cluster, changed(made(), f"{CONTAINER} image", image))


@pytest.mark.parametrize(("path", "value", "words"), JOBS, ids=lambda value: str(value)[:60])
def test_attack_a_job_that_the_operator_would_not_make(
    cluster: Cluster, path: str, value: Any, words: str
) -> None:
    manifest = changed(made(), path, value)
    assert words in create(cluster, manifest)
    assert "own-jobs" not in create(cluster, manifest, user="")


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "ControllerRevision"])
def test_other_objects_of_a_run_are_allowed_and_without_its_label_refused(
    cluster: Cluster, kind: str
) -> None:
    manifest = run_object(kind)
    assert not create(cluster, manifest)
    assert REFUSED in create(cluster, changed(manifest, "metadata labels", OF_OTHERS))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Service", "spec selector", {"app": "bank"}),
        ("Service", "spec selector", {names.LABEL_UID: OTHER_UID}),
        ("Service", "spec selector", None),
        ("Service", "spec externalIPs", ["10.0.0.1"]),
        ("Service", "spec clusterIP", None),
        ("Service", "spec type", "NodePort"),
        ("NetworkPolicy", "spec podSelector", {}),
        ("NetworkPolicy", "spec podSelector", {"matchLabels": {"app": "bank"}}),
        ("NetworkPolicy", "spec podSelector", {"matchLabels": {names.LABEL_UID: OTHER_UID}}),
    ],
)
def test_attack_a_service_or_policy_for_pods_of_others(
    cluster: Cluster, kind: str, path: str, value: Any
) -> None:
    manifest = changed(run_object(kind), path, value)
    if path == "spec type":
        del manifest["spec"]["clusterIP"]
    assert "select the pods of one run" in create(cluster, manifest)


FOREIGN: list[Callable[[], Manifest]] = [
    lambda: changed(made(Stage.PREPARE), "metadata labels", OF_OTHERS) | {"kind": "Job"},
    *(
        lambda kind=kind: changed(run_object(kind), "metadata labels", OF_OTHERS)
        for kind in ("Service", "NetworkPolicy", "ControllerRevision")
    ),
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_attack_objects_of_others_are_changed_and_deleted(
    cluster: Cluster, foreign: Callable[[], Manifest]
) -> None:
    manifest = foreign()
    manifest["metadata"]["name"] = "of-others"
    manifest["metadata"].pop("ownerReferences", None)
    assert not cluster.write("create", manifest, "")
    named = (manifest["kind"], "of-others", f"--namespace={NAMESPACE}")
    for annotation in (
        ("annotate", *named, "a=b"),
        ("label", *named, f"{names.LABEL_UID}={scenes.UID}"),
        ("delete", *named),
    ):
        assert REFUSED in cluster.kubectl(*annotation, user=OPERATOR).stderr
    cluster.done("delete", *named)


def test_jobs_of_runs_may_be_deleted_but_not_changed(cluster: Cluster) -> None:
    manifest = made(Stage.CLEANUP)
    named = ("job", manifest["metadata"]["name"], f"--namespace={NAMESPACE}")
    assert not cluster.write("create", manifest, OPERATOR)

    def patch(document: Manifest) -> str:
        done = cluster.kubectl("patch", *named, "--type=merge", "-p", json.dumps(document), user=OPERATOR)
        return done.stderr

    assert "the operator never changes a Job" in patch({"spec": {"suspend": True}})
    assert REFUSED in patch({"metadata": {"labels": {names.LABEL_UID: OTHER_UID}}})
    cluster.done("delete", *named, user=OPERATOR)


def test_only_finetunejobs_with_a_ttl_are_deleted(cluster: Cluster) -> None:
    job = scenes.BASE | {"metadata": {"name": "kept", "namespace": NAMESPACE}}
    for name, spec in (("kept", {}), ("goes", {"ttl": {"afterFinished": "1h"}})):
        assert not cluster.write(
            "create",
            job | {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": job["spec"] | spec},
            "",
        )
    delete = ("delete", "ftj", f"--namespace={NAMESPACE}")
    assert "spec.ttl.afterFinished" in cluster.kubectl(*delete, "kept", user=OPERATOR).stderr
    cluster.done(*delete, "goes", user=OPERATOR)


def test_others_are_not_asked(cluster: Cluster) -> None:
    manifest = changed(run_object("NetworkPolicy"), "spec podSelector", {})
    assert not create(cluster, changed(manifest, "metadata labels", OF_OTHERS), user="")

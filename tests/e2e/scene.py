"""What a test on the real node sees and does: a namespace of its own, its jobs, its objects in the store."""

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from minio import Minio

from devcluster.cluster import Cluster
from devcluster.places import DevclusterError
from examples import demo
from tests.api.kube import Kube

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]
T = TypeVar("T")
INPUTS, OUTPUTS = "e2e-inputs", "e2e-outputs"
SLOW_SECONDS = 900.0
"""For what takes a minute on an idle machine."""
END_SECONDS = 1800.0
"""For a whole tiny job, which takes about a minute on an idle machine."""
DEMO_SECONDS = 2700
"""For a whole demo, which takes three to six minutes on an idle machine."""
OPERATOR = ("-n", demo.SYSTEM, "-l", "app.kubernetes.io/name=finetune-operator")
"""Arguments of kubectl that select the pods of the operator."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """One namespace under Pod Security `restricted`."""

    target: demo.Target
    cluster: Cluster
    namespace: str
    store: Minio

    def kubectl(self, *arguments: str, given: Manifest | None = None) -> str:
        return demo.kubectl(self.target, "-n", self.namespace, *arguments, given=given)

    @cached_property
    def api(self) -> Kube:
        """For repeated looks: each start of kubectl needs a tenth of a second of CPU time."""
        assert self.target.kubeconfig
        return Kube(self.target.kubeconfig)

    def get(self, kind: str, name: str) -> Manifest | None:
        found: Manifest | None = self.api.find(kind, self.namespace, name)
        return found

    def all_of(self, kind: str, selector: str = "") -> list[Manifest]:
        return self.api.list(kind, self.namespace, selector)

    def apply(self, manifest: Manifest) -> None:
        self.kubectl("apply", "-f", "-", given=manifest)

    def job(self, name: str) -> Manifest:
        found = self.get("FineTuneJob", name)
        assert found is not None, f"FineTuneJob {name} is gone"
        return found

    def pods(self, *, ended: bool = True) -> list[Manifest]:
        """Pods of runs, none of a cleanup; without those that have ended, if asked."""
        return [
            pod
            for pod in self.all_of("Pod", "finetune.dev/role=run")
            if ended or pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def objects(self, prefix: str) -> list[str]:
        return [str(o.object_name) for o in self.store.list_objects(OUTPUTS, prefix, recursive=True)]

    def runs(self, uid: str) -> str:
        """Where a run keeps what is not published."""
        return f".finetune-runs/{self.namespace}/{uid}/"


@dataclass(frozen=True)
class Shown:
    """What a run of the demo printed, and the job as it ended."""

    printed: str
    job: Manifest
    scene: Scene

    @property
    def place(self) -> tuple[str, str]:
        """Bucket and folder of the published model."""
        bucket, _, folder = str(self.job["status"]["model"]["uri"]).removeprefix("s3://").partition("/")
        return bucket, folder

    def file(self, name: str) -> bytes:
        """One of the published files."""
        bucket, folder = self.place
        answer = self.scene.store.get_object(bucket, folder + name)
        try:
            return bytes(answer.read())
        finally:
            answer.close()
            answer.release_conn()

    def files(self) -> list[str]:
        """Names of the published files."""
        bucket, folder = self.place
        found = self.scene.store.list_objects(bucket, folder, recursive=True)
        return [str(o.object_name).removeprefix(folder) for o in found]


def shown_by_demo(target: demo.Target, cluster: Cluster, name: str) -> Iterator[Shown]:
    """`make demo` for one of the examples, as a user runs it; the job goes in the end."""
    job = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
    namespace = job["metadata"]["namespace"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "examples.demo", "--job", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEMO_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        printed = (late.stdout or b"").decode()[-2000:]
        state = dumped(target, namespace, limit=3000)
        pytest.fail(f"{state}\nThe demo did not end within {late.timeout:.0f} s:\n{printed}", pytrace=False)
    assert done.returncode == 0, dumped(target, namespace, limit=3000) + done.stdout + done.stderr
    log.info("%s\n%s", done.stderr, done.stdout)
    scene = Scene(target, cluster, namespace, demo.client(target.store))
    yield Shown(done.stdout, scene.job(name), scene)
    scene.kubectl("delete", "ftj", "--all")


def tiny(name: str, scene: Scene, **spec: Any) -> Manifest:
    """A job of a random BERT on 200 rows: nearly all its time goes into starting Python."""
    made = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": scene.namespace},
        "spec": {
            "task": "TextClassification",
            "model": {"uri": f"s3://{INPUTS}/tiny-bert"},
            "dataset": {"train": {"uri": f"s3://{INPUTS}/rows.jsonl"}, "test": {"split": 0.2}},
            "training": {"epochs": 1, "batchSize": 16, "maxLength": 16, "learningRate": 0.003},
            "resources": {"cpu": "900m", "memory": "3Gi"},
            "output": {"uri": f"s3://{OUTPUTS}/tuned/", "suffix": "v1"},
            "storage": {
                "endpoint": scene.target.store.endpoint_in_cluster,
                "secretRef": {"name": "s3"},
                "caBundleRef": {"name": "storage-ca"},
            },
        },
    }
    return _merged(made, {"spec": spec})


def _merged(base: Manifest, change: Manifest) -> Manifest:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def condition(job: Manifest, kind: str) -> Manifest:
    """A condition; Unknown where it is not there."""
    conditions = (job.get("status") or {}).get("conditions", ())
    return next(
        (c for c in conditions if c["type"] == kind), {"status": "Unknown", "reason": "", "message": ""}
    )


def attempts(job: Manifest) -> list[tuple[str, int, str]]:
    """Stage, number and outcome of each attempt."""
    return [(a["stage"], a["number"], a["outcome"]) for a in (job.get("status") or {}).get("attempts", ())]


def state_of(job: Manifest) -> str:
    status = job.get("status") or {}
    return f"{status.get('state')}: {status.get('message')}; attempts {attempts(job)}"


def until(
    what: str,
    seconds: float,
    look: Callable[[], T | None],
    told: Callable[[], str] = lambda: "",
    pause: float = 0.5,
) -> T:
    """Looks again and again until there is something to see."""
    deadline = time.monotonic() + seconds
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s. {told()}"
        time.sleep(pause)


def finished(scene: Scene, name: str, *, seconds: float = END_SECONDS) -> Manifest:
    """The job as it ended, either way."""

    def look() -> Manifest | None:
        job = scene.job(name)
        said = condition(job, "Finished")
        current = said.get("observedGeneration") == job["metadata"]["generation"]
        return job if current and said["status"] == "True" else None

    return until(f"{name} ends", seconds, look, lambda: state_of(scene.job(name)), pause=1)


def succeeded(scene: Scene, name: str, *, seconds: float = END_SECONDS) -> Manifest:
    job = finished(scene, name, seconds=seconds)
    assert condition(job, "Succeeded")["status"] == "True", state_of(job)
    return job


def reached(scene: Scene, name: str, reason: str, *, seconds: float = SLOW_SECONDS) -> Manifest:
    """The job once it shows this reason in Running or Succeeded."""

    def look() -> Manifest | None:
        job = scene.job(name)
        return job if reason in (condition(job, t)["reason"] for t in ("Running", "Succeeded")) else None

    return until(f"{name} shows {reason}", seconds, look, lambda: state_of(scene.job(name)), pause=1)


def pods_running(scene: Scene, stage: str, count: int = 1, attempt: int = 1) -> list[Manifest]:
    """The pods of an attempt, once their containers run."""

    def look() -> list[Manifest] | None:
        wanted = f"finetune.dev/stage={stage},finetune.dev/attempt={attempt},finetune.dev/role=run"
        running = [
            pod
            for pod in scene.all_of("Pod", wanted)
            if any("running" in c["state"] for c in pod["status"].get("containerStatuses", ()))
        ]
        return running if len(running) == count else None

    return until(f"{count} pods of {stage} {attempt} run", SLOW_SECONDS, look)


def training(scene: Scene, name: str, count: int = 1, attempt: int = 1) -> list[Manifest]:
    """The pods of a Train attempt once it has taken a step."""
    pods = pods_running(scene, "Train", count, attempt)
    first = next(
        p for p in pods if p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0"
    )

    def stepped() -> bool:
        return "step " in scene.kubectl("logs", first["metadata"]["name"])

    until(f"{name} trains", SLOW_SECONDS, stepped, lambda: state_of(scene.job(name)))
    return pods


def pods_gone(scene: Scene, *, seconds: float, ended: bool = True) -> float:
    """Seconds until no pod of a run is left; pods that have ended may be let stay."""
    began = time.monotonic()
    until(
        "all pods are gone",
        seconds,
        lambda: not scene.pods(ended=ended),
        lambda: str([p["metadata"]["name"] for p in scene.pods(ended=ended)]),
    )
    return time.monotonic() - began


def cleaned_up(scene: Scene, uid: str, *, seconds: float = SLOW_SECONDS) -> None:
    """Waits until nothing of a run is left in the store and its cleanup record is gone."""
    prefix = scene.runs(uid)

    def left() -> str:
        jobs = [
            (j["metadata"]["name"], j["status"]) for j in scene.all_of("Job", f"finetune.dev/job-uid={uid}")
        ]
        return f"{scene.objects(prefix)}, {jobs}"

    def clean() -> bool:
        record = scene.all_of("ControllerRevision", f"finetune.dev/job-uid={uid}")
        return not record and not scene.objects(prefix)

    until(f"{prefix} is cleaned up", seconds, clean, left, pause=1)


def processes(pod: Manifest, program: str) -> list[int]:
    """Pids on this machine of a pod's processes whose command line holds these words, oldest first."""
    uid = pod["metadata"]["uid"]
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            ours = (
                uid in (folder / "cgroup").read_text()
                or uid.replace("-", "_") in (folder / "cgroup").read_text()
            )
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if ours and program in words:
            found.append(int(folder.name))
    return sorted(found)


def kill_operator(scene: Scene) -> None:
    """SIGKILL; then the pod is replaced, because the kubelet's back-off for crashes would outlast the job."""
    pods = json.loads(demo.kubectl(scene.target, "get", "pods", *OPERATOR, "-o", "json"))["items"]
    for pod in pods:
        for pid in processes(pod, "finetune_operator"):
            os.kill(pid, signal.SIGKILL)
    demo.kubectl(scene.target, "delete", "pods", *OPERATOR, "--force", "--grace-period=0")


@contextmanager
def stopped(pods: list[Manifest]) -> Iterator[None]:
    """Stops the training processes of the pods, so that training lasts as long as the block."""
    ranks = [pid for pod in pods for pid in processes(pod, "finetune_trainer.pod.rank")]
    assert ranks
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)


def audit(cluster: Cluster, since: datetime) -> Iterator[Manifest]:
    """Calls of the API since then, from the audit log."""
    with cluster.audit_log.open() as log:
        for line in log:
            entry = json.loads(line)
            if datetime.fromisoformat(entry["requestReceivedTimestamp"]) >= since:
                yield entry


def begin_upload(scene: Scene, key: str) -> str:
    """Begins a multipart upload that nobody will end."""
    upload: str = scene.store._create_multipart_upload(OUTPUTS, key, {})
    scene.store._upload_part(OUTPUTS, key, b"x" * 1000, {}, upload, 1)
    return upload


def uploads(scene: Scene, key: str) -> list[str]:
    """Unfinished uploads of an object. MinIO lists them by the object's whole name only."""
    return [str(u.upload_id) for u in scene.store._list_multipart_uploads(OUTPUTS, prefix=key).uploads]


def fresh_name(word: str) -> str:
    return f"e2e-{word}-{secrets.token_hex(2)}"


def dumped(target: demo.Target, namespace: str, limit: int = 12000) -> str:
    """Everything that tells why something in a namespace went wrong; `limit` characters a command."""
    asked = [
        ("get", "ftj,jobs,pods,networkpolicies", "-o", "wide"),
        ("get", "ftj", "-o", "yaml"),
        ("describe", "pods"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("logs", "-l", "finetune.dev/job", "--tail=60", "--prefix", "--ignore-errors"),
    ]
    parts = []
    for arguments in asked:
        try:
            told = demo.kubectl(target, "-n", namespace, *arguments)
        except (DevclusterError, subprocess.SubprocessError) as error:
            told = str(error)
        parts.append(f"$ kubectl -n {namespace} {' '.join(arguments)}\n{told[-limit:]}")
    parts += [f"stacks of a rank:\n{stacks[:limit]}" for stacks in stacks_of_ranks()]
    return "\n".join(parts)


def stacks_of_ranks() -> list[str]:
    """The stacks of the threads of each rank that runs on this machine, the newest call first."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if arguments[1:3] != [b"-m", b"finetune_trainer.pod.rank"]:
                continue
            os.kill(int(process.name), signal.SIGUSR2)
            time.sleep(1)  # a rank does not tell when its stacks are complete
            found += [f.read_text() for f in (process / "root/tmp/finetune/stacks").glob("*.txt")]
        except OSError:
            continue  # the rank has ended
    return found


def operator_log(target: demo.Target, since: datetime) -> list[str]:
    """Lines of the operator's log, also of its containers before a restart."""
    selector = ("logs", *OPERATOR, "--tail=-1", "--prefix")
    when = f"--since-time={since.isoformat()}"
    lines = demo.kubectl(target, *selector, when).splitlines()
    try:
        lines += demo.kubectl(target, *selector, when, "--previous").splitlines()
    except DevclusterError:
        return lines  # nothing was restarted
    return lines

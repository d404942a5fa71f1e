"""The demo: a cluster, the operator, one FineTuneJob, and what came of it.

`make demo` brings up the embedded cluster; JOB=debian-summaries runs that example instead of the first.
`make demo CLUSTER=current REGISTRY=...` uses the current kubeconfig and a store named by S3_ENDPOINT,
S3_ACCESS_KEY, S3_SECRET_KEY and, for an authority of its own, S3_CA (a PEM file).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml
from minio import Minio

from devcluster import binaries, builder
from devcluster.cluster import Cluster, chosen
from devcluster.places import REPOSITORY, DevclusterError
from devcluster.progress import say, step
from devcluster.up import up
from examples import fetch_minilm, fetch_smollm2, make_debian_summaries, view

EXAMPLES = REPOSITORY / "examples"
CHART = REPOSITORY / "charts/finetune-operator"
SYSTEM = "finetune-system"
LIMIT_SECONDS = 3600
IMAGE_VALUES = {"operator": "image", "trainer": "trainer.image", "trainer-slim": "trainer.slimImage"}
"""The value of the chart that names each image."""


def sections(folder: Path) -> None:
    """The inputs of debian-sections: a pretrained encoder, and the committed rows."""
    fetch_minilm.fetch(folder / "models/minilm")
    shutil.copytree(EXAMPLES / "data/debian-sections", folder / "datasets/debian-sections")


def summaries(folder: Path) -> None:
    """The inputs of debian-summaries: an instruct model, and conversations made of the committed rows."""
    fetch_smollm2.fetch(folder / "models/smollm2-135m-instruct")
    make_debian_summaries.make(folder / "datasets/debian-summaries")


INPUTS: dict[str, Callable[[Path], None]] = {"debian-sections": sections, "debian-summaries": summaries}
"""What fills a folder with what each example reads: one folder a bucket, files as they are to be named."""


@dataclass(frozen=True)
class Store:
    """An S3 store, as this machine and as pods reach it."""

    endpoint: str
    endpoint_in_cluster: str
    access_key: str
    secret_key: str
    ca_file: Path | None


@dataclass(frozen=True)
class Target:
    """Where the demo runs."""

    kubeconfig: Path | None
    store: Store
    images: dict[str, str]


def main() -> int:
    """Run the demo; 0 when the job succeeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=tuple(INPUTS), default="debian-sections")
    parser.add_argument("--cluster", choices=("embedded", "current"), default="embedded")
    parser.add_argument("--registry", help="with --cluster=current: where images are pushed, host/path")
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        target = embedded() if arguments.cluster == "embedded" else current(arguments.registry)
        file = EXAMPLES / f"{arguments.job}.yaml"
        job = yaml.safe_load(file.read_text())
        install(target)
        prepare_namespace(target, job)
        upload(target.store, INPUTS[arguments.job])
        forget(target, job)
        apply(target, file, job)
        finished = watch(target, job)
    except DevclusterError as error:
        say(f"error: {error}")
        return 1
    summarise(target, job, finished)
    say(f"the demo took {time.monotonic() - began:.0f} s")
    return 0 if condition(finished, "Succeeded") == "True" else 1


def embedded() -> Target:
    """Bring up the embedded cluster and give it the images."""
    up(cluster := chosen())
    images = {}
    for name in builder.TARGETS:
        builder.build(name)
        images[name] = builder.load(cluster, name)
    return Target(cluster.kubeconfig, embedded_store(cluster), images)


def embedded_store(cluster: Cluster) -> Store:
    """The object store of the embedded cluster."""
    keys = json.loads(cluster.storage_credentials.read_text())
    return Store(
        endpoint=cluster.storage_endpoint,
        endpoint_in_cluster="https://minio.storage.svc.cluster.local:9000",
        access_key=keys["accessKey"],
        secret_key=keys["secretKey"],
        ca_file=cluster.storage_ca,
    )


def current(registry: str | None) -> Target:
    """Use the current kubeconfig, a registry and a store that the caller names."""
    missing = [name for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY") if not os.environ.get(name)]
    if missing or not registry:
        wanted = ", ".join([*([] if registry else ["REGISTRY"]), *missing])
        raise DevclusterError(f"on a cluster of your own the demo needs {wanted}; see examples/demo.py")
    images = {}
    for name in builder.TARGETS:
        builder.build(name)
        images[name] = builder.push(name, f"{registry}/finetune-{name}:demo")
    ca = os.environ.get("S3_CA")
    endpoint = os.environ["S3_ENDPOINT"]
    store = Store(
        endpoint,
        endpoint,
        os.environ["S3_ACCESS_KEY"],
        os.environ["S3_SECRET_KEY"],
        Path(ca) if ca else None,
    )
    return Target(None, store, images)


def install(target: Target, *values: str, chart: Path = CHART) -> None:
    """Install or upgrade the operator's chart; `values` are further arguments of Helm."""
    with step("installing the operator"):
        namespace(target, SYSTEM)
        helm = [str(binaries.path("helm")), "upgrade", "--install", "finetune-operator", str(chart)]
        helm += ["--namespace", SYSTEM, "--wait", "--timeout", "120s"]
        for name, image in target.images.items():
            helm += image_values(IMAGE_VALUES[name], image)
        command([*helm, *values], target)


def image_values(prefix: str, reference: str) -> list[str]:
    """Helm arguments that name an image by digest or tag."""
    repository, digest = reference, ""
    if "@" in reference:
        repository, _, digest = reference.partition("@")
    kept, colon, tag = repository.rpartition(":")
    if colon and "/" not in tag:
        repository = kept
        digest = digest or tag
    key = "digest" if digest.startswith("sha256:") else "tag"
    return ["--set-string", f"{prefix}.repository={repository}", "--set-string", f"{prefix}.{key}={digest}"]


def namespace(target: Target, name: str) -> None:
    """Make a namespace under Pod Security `restricted`."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    kubectl(target, "apply", "-f", "-", given=manifest)


def prepare_namespace(target: Target, job: dict[str, Any]) -> None:
    """Give the job's namespace the store's keys and certificate authority."""
    where = job["metadata"]["namespace"]
    storage = job["spec"]["storage"]
    namespace(target, where)
    give_keys(target, where, storage["secretRef"]["name"])
    if target.store.ca_file:
        bundle = storage["caBundleRef"]
        give_authority(target, where, bundle["name"], bundle.get("key", "ca.crt"))


def give_keys(target: Target, where: str, name: str) -> None:
    """Put the store's keys into a Secret of a namespace."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": where},
        "stringData": {"accessKey": target.store.access_key, "secretKey": target.store.secret_key},
    }
    kubectl(target, "apply", "-f", "-", given=secret)


def give_authority(target: Target, where: str, name: str, key: str = "ca.crt") -> None:
    """Put the store's certificate authority into a ConfigMap of a namespace."""
    if target.store.ca_file is None:
        raise DevclusterError("the store has no certificate authority of its own")
    bundle = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": where},
        "data": {key: target.store.ca_file.read_text()},
    }
    kubectl(target, "apply", "-f", "-", given=bundle)


def client(store: Store) -> Minio:
    """A client of the store, as its owner."""
    scheme, _, host = store.endpoint.partition("://")
    pool = urllib3.PoolManager(ca_certs=str(store.ca_file) if store.ca_file else None)
    return Minio(
        host.rstrip("/"),
        access_key=store.access_key,
        secret_key=store.secret_key,
        secure=scheme == "https",
        http_client=pool,
    )


def upload(store: Store, fill: Callable[[Path], None]) -> None:
    """Put the base model and the data into the store."""
    with step("uploading the base model and the data"), tempfile.TemporaryDirectory() as made:
        fill(Path(made))
        owner = client(store)
        for bucket in sorted(Path(made).iterdir()):
            if not owner.bucket_exists(bucket.name):
                owner.make_bucket(bucket.name)
            for file in sorted(bucket.rglob("*")):
                if file.is_file():
                    owner.fput_object(bucket.name, file.relative_to(bucket).as_posix(), str(file))


def forget(target: Target, job: dict[str, Any]) -> None:
    """Remove what an earlier demo left: the job, and its model, which no job would overwrite."""
    name, where, output = job["metadata"]["name"], job["metadata"]["namespace"], job["spec"]["output"]
    kubectl(target, "-n", where, "delete", "ftj", name, "--ignore-not-found", "--wait=true")
    bucket, _, parent = str(output["uri"]).removeprefix("s3://").partition("/")
    owner = client(target.store)
    published = owner.list_objects(bucket, f"{parent}{where}/{name}/{output['suffix']}/", recursive=True)
    names = [str(entry.object_name) for entry in published]
    for key in names:
        owner.remove_object(bucket, key)
    if names:
        say(f"removed the model of an earlier demo, {len(names)} files below s3://{bucket}/{parent}{where}/")


def apply(target: Target, file: Path, job: dict[str, Any]) -> None:
    """Apply the job, with the endpoint of the target's store."""
    if target.store.endpoint_in_cluster == job["spec"]["storage"]["endpoint"]:
        say(f"kubectl apply -f {file.relative_to(REPOSITORY)}")
        kubectl(target, "apply", "-f", str(file))
    else:
        job["spec"]["storage"]["endpoint"] = target.store.endpoint_in_cluster
        if target.store.ca_file is None:
            job["spec"]["storage"].pop("caBundleRef", None)
        say(f"kubectl apply -f {file.relative_to(REPOSITORY)} (with your store's endpoint)")
        kubectl(target, "apply", "-f", "-", given=job)


def watch(target: Target, job: dict[str, Any]) -> dict[str, Any]:
    """Watch the job to its end; the job as it ended."""
    name, where = job["metadata"]["name"], job["metadata"]["namespace"]
    began = time.monotonic()
    shown = ""
    while time.monotonic() - began < LIMIT_SECONDS:
        seen = json.loads(kubectl(target, "-n", where, "get", "ftj", name, "-o", "json"))
        line = view.live(seen)
        if line != shown:
            show(time.monotonic() - began, line)
            shown = line
        if condition(seen, "Finished") == "True":
            print()
            return dict(seen)
        time.sleep(1)
    raise DevclusterError(f"{where}/{name} did not finish within {LIMIT_SECONDS} s: {shown}")


def show(seconds: float, line: str) -> None:
    """Redraw the line on a terminal; else print it as one more line."""
    text = f"{seconds:5.0f} s  {line}"
    print(
        f"\r\033[K{text}" if sys.stdout.isatty() else text,
        end="" if sys.stdout.isatty() else "\n",
        flush=True,
    )


def summarise(target: Target, job: dict[str, Any], finished: dict[str, Any]) -> None:
    """Show the job as kubectl does, its figures, and where everything is."""
    name, where = job["metadata"]["name"], job["metadata"]["namespace"]
    status = finished["status"]
    print(kubectl(target, "-n", where, "get", "ftj", name, "-o", "wide"))
    if "evaluation" in status and "tuned" in status["evaluation"]:
        print(view.scores(status["evaluation"]), "", view.verdict(status["evaluation"]), "", sep="\n")
    else:
        print(status.get("message", ""))
    print(f"model   {status.get('model', {}).get('uri', 'none')}")
    print(f"report  {status.get('report', 'none')}")
    print(f"data    {status.get('data', {}).get('report', 'none')}")
    if target.kubeconfig:
        print(f"\nexport KUBECONFIG={target.kubeconfig}    # to look around; `make down` removes it all")


def condition(job: dict[str, Any], name: str) -> str:
    """Status of one condition; Unknown where it is not there."""
    conditions = (job.get("status") or {}).get("conditions", ())
    return next((str(c["status"]) for c in conditions if c["type"] == name), "Unknown")


def kubectl(target: Target, *arguments: str, given: dict[str, Any] | None = None) -> str:
    """Run kubectl; what it printed."""
    return command([str(binaries.path("kubectl")), *arguments], target, given)


def command(program: list[str], target: Target, given: dict[str, Any] | None = None) -> str:
    """Run a program against the target's cluster; what it printed."""
    environment = dict(os.environ)
    if target.kubeconfig:
        environment["KUBECONFIG"] = str(target.kubeconfig)
    done = subprocess.run(  # noqa: S603 - programs of this project, arguments are a list
        program,
        env=environment,
        input=json.dumps(given) if given else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DevclusterError(f"{' '.join(program[:3])} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

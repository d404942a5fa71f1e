"""The demo as a user runs it, and whether what it shows is true."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from devcluster import outbound, status
from devcluster.cluster import Cluster
from examples import demo
from tests.e2e.scene import SLOW_SECONDS, Shown, audit, log, shown_by_demo, until

FEW = 16
WRITES = {"create", "update", "patch", "delete"}


@pytest.fixture(scope="module")
def cut(target: demo.Target, cluster: Cluster) -> Iterator[tuple[Shown, outbound.Outbound]]:
    """The demo with the network of the cluster cut."""
    with outbound.watched(cluster) as gateway:
        for shown in shown_by_demo(target, cluster, "debian-sections"):
            yield shown, gateway


@pytest.fixture(scope="module")
def shown(cut: tuple[Shown, outbound.Outbound]) -> Shown:
    return cut[0]


def test_it_prints_how_the_model_compares_and_where_it_is(shown: Shown) -> None:
    evaluation = shown.job["status"]["evaluation"]
    assert "s3://models/tuned/demo/debian-sections/v1/" in shown.printed
    assert "✔ Prepare  ✔ Train  ✔ Publish" in shown.printed
    for model in ("majority", "baseline", "tuned", "delta"):
        assert f"{abs(evaluation[model]['metrics']['macroF1']['value']):.3f}" in shown.printed


def test_the_figures_are_what_scikit_learn_makes_of_the_stored_predictions(shown: Shown) -> None:
    rows = [json.loads(line) for line in shown.file("evaluation/predictions.jsonl").splitlines()]
    evaluation = shown.job["status"]["evaluation"]
    assert evaluation["rows"] == len(rows) == shown.job["status"]["data"]["rows"]["test"]
    truth = [row["label"] for row in rows]
    for model, key in (("majority", "majority"), ("baseline", "linearProbe"), ("tuned", "tuned")):
        said = [row[key] for row in rows]
        computed = {
            "accuracy": accuracy_score(truth, said),
            "macroF1": f1_score(truth, said, average="macro", zero_division=0),
            "microF1": f1_score(truth, said, average="micro", zero_division=0),
            "weightedF1": f1_score(truth, said, average="weighted", zero_division=0),
            "mcc": matthews_corrcoef(truth, said),
        }
        told = {name: figure["value"] for name, figure in evaluation[model]["metrics"].items()}
        assert told == pytest.approx(computed, abs=1e-9)


def test_the_tuned_model_beats_the_linear_probe_and_clearly_the_majority_class(shown: Shown) -> None:
    evaluation = shown.job["status"]["evaluation"]
    assert evaluation["delta"]["metrics"]["macroF1"]["value"] > 0
    assert (
        evaluation["tuned"]["metrics"]["macroF1"]["low"]
        > evaluation["majority"]["metrics"]["macroF1"]["high"]
    )


def test_every_published_file_is_the_one_that_the_manifest_names(shown: Shown) -> None:
    told = shown.file("manifest.json")
    assert shown.job["status"]["model"]["digest"] == f"sha256:{hashlib.sha256(told).hexdigest()}"
    manifest = json.loads(told)
    assert manifest["job"]["uid"] == shown.job["metadata"]["uid"]
    names = {file["path"] for file in manifest["files"]}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
        "report.html",
        "report.json",
    } <= names
    for file in manifest["files"]:
        assert file["digest"] == f"sha256:{hashlib.sha256(shown.file(file['path'])).hexdigest()}"
    assert set(shown.files()) == names | {"manifest.json"}


def test_a_program_with_nothing_but_the_published_folder_gives_the_reported_classes(
    shown: Shown, tmp_path: Path
) -> None:
    from transformers import pipeline  # noqa: PLC0415 - heavy

    for name in shown.files():
        if "/" not in name:
            (tmp_path / name).write_bytes(shown.file(name))
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
    told = [json.loads(line) for line in shown.file("evaluation/predictions.jsonl").splitlines()][:FEW]
    test = (demo.EXAMPLES / "data/debian-sections/test.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(test[row["line"] - 1])["text"] for row in told]
    answers = classify(texts, truncation=True, max_length=shown.job["status"]["chosen"]["maxLength"])
    assert [answer["label"] for answer in answers] == [row["tuned"] for row in told]


def test_no_packet_leaves_the_cluster(cut: tuple[Shown, outbound.Outbound], cluster: Cluster) -> None:
    _, gateway = cut
    assert gateway.destinations() == []
    connect = "import socket; socket.create_connection(('203.0.113.7', 443), 0.1)"
    node = status.running(cluster)["kubelet"]
    tried = [*("nsenter", f"--target={node}", "--net"), sys.executable, "-c", connect]
    assert b"TimeoutError" in subprocess.run(tried, capture_output=True, check=False).stderr
    assert gateway.destinations() == ["203.0.113.7"], "the gateway records what the node sends"


def test_the_operator_writes_little(shown: Shown, cluster: Cluster) -> None:
    namespace = shown.scene.namespace
    calls = Counter(
        (entry["verb"], entry["objectRef"]["resource"])
        for entry in audit(cluster, datetime.fromisoformat(shown.job["metadata"]["creationTimestamp"]))
        if "finetune-operator" in entry["user"]["username"]
        and entry.get("objectRef", {}).get("namespace") == namespace
        and entry["verb"] in WRITES
        and entry["responseStatus"]["code"] < 300
    )
    for (verb, resource), count in sorted(calls.items()):
        log.info("%3d %s %s", count, verb, resource)
    status = calls.pop(("update", "finetunejobs"))
    assert sum(calls.values()) <= 10
    events = calls[("create", "events")]
    assert events <= 4
    ran = datetime.fromisoformat(shown.job["status"]["completionTime"]) - datetime.fromisoformat(
        shown.job["status"]["startTime"]
    )
    # Milestones, and progress at most every 30 s.
    assert status <= 15 + ran.total_seconds() / 30


def test_its_pods_hold_no_api_token(shown: Shown) -> None:
    pods = shown.scene.pods()
    assert pods
    for pod in pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        volumes = json.dumps(pod["spec"]["volumes"])
        assert "serviceAccountToken" not in volumes


def left(shown: Shown, uid: str) -> list[str]:
    """What lies in the store of a run."""
    bucket, _ = shown.place
    found = shown.scene.store.list_objects(bucket, shown.scene.runs(uid), recursive=True)
    return [str(o.object_name) for o in found]


def test_deleted_it_leaves_the_model_and_nothing_else(shown: Shown) -> None:
    uid = shown.job["metadata"]["uid"]
    assert left(shown, uid)
    shown.scene.kubectl("delete", "ftj", shown.job["metadata"]["name"])

    until(
        "the run is cleaned_up",
        SLOW_SECONDS,
        lambda: not left(shown, uid),
        lambda: str(left(shown, uid)),
        pause=1,
    )
    for kind in ("Pod", "Service", "NetworkPolicy", "ConfigMap"):
        found = shown.scene.all_of(kind, f"finetune.dev/job-uid={uid},finetune.dev/role=run")
        assert not found, [o["metadata"]["name"] for o in found]
    assert shown.file("manifest.json")

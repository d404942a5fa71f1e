"""Mistakes that only a real store and a real node show: told apart, not retried, and mended by a new spec."""

import pytest

from tests.e2e.scene import (
    INPUTS,
    SLOW_SECONDS,
    Manifest,
    Scene,
    attempts,
    condition,
    finished,
    log,
    state_of,
    succeeded,
    tiny,
    until,
)

FOREIGN_CA = "foreign-ca"
WRONG: dict[str, tuple[Manifest, str, str]] = {
    "authority": ({"storage": {"caBundleRef": {"name": FOREIGN_CA}}}, "StorageCertificate", "certificate"),
    "keys": ({"storage": {"secretRef": {"name": "wrong-keys"}}}, "StorageDenied", "accessKey"),
    "bucket": ({"output": {"uri": "s3://e2e-no-such-bucket/tuned/"}}, "BucketMissing", "e2e-no-such-bucket"),
    "rows": (
        {"dataset": {"train": {"uri": f"s3://{INPUTS}/bad-rows.jsonl"}}},
        "TooManyBadRows",
        "50 of 200 rows",
    ),
}


def failed(scene: Scene, name: str, reason: str) -> Manifest:
    job = finished(scene, name, seconds=SLOW_SECONDS)
    log.info("%s", state_of(job))
    assert condition(job, "Succeeded")["status"] == "False"
    assert condition(job, "Succeeded")["reason"] == reason, state_of(job)
    assert job["status"]["state"] == "Failed"
    return job


@pytest.fixture
def mistaken(scene: Scene) -> Scene:
    """A namespace with somebody else's authority and keys that the store does not know."""
    scene.kubectl(
        "create",
        "secret",
        "generic",
        "wrong-keys",
        "--from-literal=accessKey=nobody",
        "--from-literal=secretKey=wrong-wrong",
    )
    foreign = scene.cluster.pki / "ca.crt"
    scene.kubectl("create", "configmap", FOREIGN_CA, f"--from-file=ca.crt={foreign}")
    return scene


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_fails_prepare_at_once_and_a_corrected_spec_goes_on(mistaken: Scene, what: str) -> None:
    change, reason, words = WRONG[what]
    mistaken.apply(tiny("mistake", mistaken, **change))
    job = failed(mistaken, "mistake", reason)
    assert words in job["status"]["message"]
    assert attempts(job) == [("Prepare", 1, "Failed")]
    assert reason in mistaken.kubectl("logs", job["status"]["attempts"][0]["pod"])  # it stays, until the ttl
    mistaken.apply(tiny("mistake", mistaken))
    if what == "rows":
        job = succeeded(mistaken, "mistake")
        assert attempts(job)[1:] == [
            ("Prepare", 2, "Succeeded"),
            ("Train", 1, "Succeeded"),
            ("Publish", 1, "Succeeded"),
        ]
        return

    def prepared() -> Manifest | None:
        now = mistaken.job("mistake")
        return now if condition(now, "Prepared")["status"] == "True" else None

    until("Prepare succeeds", SLOW_SECONDS, prepared, lambda: state_of(mistaken.job("mistake")))


def test_plain_http_is_refused_before_any_pod_is_made(scene: Scene) -> None:
    endpoint = scene.target.store.endpoint_in_cluster.replace("https", "http")
    scene.apply(tiny("open", scene, storage={"endpoint": endpoint}))
    job = failed(scene, "open", "StorageInsecure")
    assert endpoint in job["status"]["message"]
    assert not attempts(job)
    assert not scene.all_of("Job")

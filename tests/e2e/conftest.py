"""The embedded cluster, the operator by its chart, inputs in MinIO, and a namespace for each test."""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from minio import Minio

from devcluster import status
from devcluster.cluster import Cluster, chosen
from devcluster.down import down
from examples import demo
from tests.e2e import scene as scenes
from tests.e2e.scene import INPUTS, OUTPUTS, Manifest, Scene

ROOT = Path(__file__).parents[2]
CLASSES = ("blue", "green", "red")
PROFILES: dict[str, Manifest] = {
    "default": {},
    # Pods that wait hold what they ask for: so small that six of them fit on the node.
    "small": {"cpuStages": {"cpu": "200m", "memory": "1Gi"}},
    "no-image": {
        "trainerImage": "registry.local:5000/no-such-trainer:v0",
        "cpuStages": {"cpu": "200m", "memory": "1Gi"},
    },
}
GRACE_SECONDS = 120
"""What the chart gives pods between SIGTERM and SIGKILL."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "operator_says(*texts): errors that this test makes the operator log")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    target = item.config.stash.get(TARGET, None)
    if report.failed and target is not None:
        for namespace in sorted(NAMESPACES):
            report.sections.append((f"namespace {namespace}", scenes.dumped(target, namespace)))
        log = scenes.operator_log(target, item.stash.get(SINCE, STARTED))
        report.sections.append(("operator's log", "\n".join(log[-200:])))
    return report


TARGET: pytest.StashKey[demo.Target] = pytest.StashKey()
SINCE: pytest.StashKey[datetime] = pytest.StashKey()
STARTED = datetime.now(UTC)
NAMESPACES: set[str] = set()


@pytest.fixture(scope="session")
def target(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[demo.Target]:
    """The cluster is up and has the images as the sources are now; it goes as it came."""
    was_up = bool(status.running(cluster))
    request.config.stash[TARGET] = embedded = demo.embedded()
    yield embedded
    if not was_up:
        down(cluster)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return chosen()


@pytest.fixture(scope="module")
def installed(target: demo.Target) -> demo.Target:
    """The operator as the demo installs it, with more profiles."""
    demo.install(target, "--set-json", f"settings.profiles={json.dumps(PROFILES)}")
    return target


@pytest.fixture(scope="session")
def store(target: demo.Target) -> Minio:
    """The object store with a tiny base model and 200 rows that it can learn."""
    owner = demo.client(target.store)
    for bucket in (INPUTS, OUTPUTS):
        if not owner.bucket_exists(bucket):
            owner.make_bucket(bucket)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        program = ROOT / "tests/trainer/programs/tiny_bert.py"
        subprocess.run([sys.executable, program, folder], check=True, timeout=600)
        for file in folder.iterdir():
            owner.fput_object(INPUTS, f"tiny-bert/{file.name}", str(file))
        rows = folder / "rows.jsonl"
        chance = random.Random(11)  # noqa: S311 - rows, no secret
        rows.write_text("".join(_row(chance, number % 3) for number in range(200)))
        owner.fput_object(INPUTS, "rows.jsonl", str(rows))
        rows.write_text("".join("no JSON\n" if n % 4 == 0 else _row(chance, n % 3) for n in range(200)))
        owner.fput_object(INPUTS, "bad-rows.jsonl", str(rows))
    return owner


def _row(chance: random.Random, label: int) -> str:
    words = [f"w{2 + label}", *(f"w{chance.randrange(10, 50)}" for _ in range(chance.randrange(3, 10)))]
    return json.dumps({"text": " ".join(words), "label": CLASSES[label]}) + "\n"


@pytest.fixture(scope="module")
def new_scene(installed: demo.Target, store: Minio, cluster: Cluster) -> Iterator[Callable[..., Scene]]:
    """Makes namespaces with keys and authority; they go with the module."""
    made: list[str] = []

    def make(word: str, *, keys: bool = True, authority: bool = True) -> Scene:
        name = scenes.fresh_name(word)
        demo.namespace(installed, name)
        made.append(name)
        NAMESPACES.add(name)
        if keys:
            demo.give_keys(installed, name, "s3")
        if authority:
            demo.give_authority(installed, name, "storage-ca")
        return Scene(installed, cluster, name, store)

    yield make
    for name in made:
        NAMESPACES.discard(name)
        demo.kubectl(installed, "delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def scene(new_scene: Callable[..., Scene], request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A namespace for one test; its pods are gone before the next test asks for CPUs."""
    made = new_scene(request.node.path.stem.removeprefix("test_").replace("_", "-"))
    yield made
    if not request.session.testsfailed:
        made.kubectl("delete", "ftj", "--all")
        scenes.pods_gone(made, seconds=GRACE_SECONDS + 60)


@pytest.fixture(autouse=True)
def operator_said(target: demo.Target, request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: the operator has logged no traceback and no error that the test does not name."""
    request.node.stash[SINCE] = since = datetime.now(UTC)
    yield
    marker = request.node.get_closest_marker("operator_says")
    allowed = marker.args if marker else ()
    wrong = [line for line in scenes.operator_log(target, since) if _is_wrong(line)]
    assert not [line for line in wrong if not any(text in line for text in allowed)]


def _is_wrong(line: str) -> bool:
    if "Traceback" in line:
        return True
    start = line.find("{")
    try:
        said = json.loads(line[start:]) if start >= 0 else {}
    except ValueError:
        return True
    return said.get("level") in ("error", "critical") or "exception" in said

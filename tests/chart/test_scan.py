"""checkov and kube-score scan what the chart renders and the Jobs that the operator creates, without skips.

docs/security/scans.md has the figures, and the figures of other charts.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries, checkov
from finetune_operator.settings import Settings
from finetune_trainer.contract import Stage
from tests.chart.conftest import CHART, helm_template, manifests
from tests.chart.test_lint import INSTALLS
from tests.chart.test_operator_policy import made, run_object

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/operator/rendering/golden/manifests.yaml"
DIGEST = "sha256:" + "a" * 64
SECURE = (CHART / "values-secure.yaml", ROOT / "docs/security/locked-down.yaml")
RELEASED = (
    f'image.digest="{DIGEST}"',
    f'trainer.image.digest="{DIGEST}"',
    f'trainer.slimImage.digest="{DIGEST}"',
)
"""A release of the chart names its images by digest. The sources cannot know the digests."""
DOCUMENTS = ("defaults", "everything", "namespaced", "secure", "jobs", "secure-jobs")
NOT_BY_DEFAULT = {"container-image-pull-policy", "container-ephemeral-storage-request-and-limit"}
"""Critical checks of kube-score that only values-secure.yaml meets. By default, a pod starts also while the
registry does not answer (an image with a digest cannot change), and on nodes that do not count ephemeral
storage."""


def document(name: str) -> str:
    """What is scanned, each in a namespace of its own: checkov relates objects of one namespace."""
    if name == "jobs":
        jobs = yaml.safe_load(GOLDEN.read_text())
        assert {"prepare", "train", "publish", "readback", "cleanup"} <= set(jobs)
        return re.sub(r"image: (\S+)\n", rf"image: \1@{DIGEST}\n", yaml.safe_dump_all(jobs.values()))
    options: dict[str, Any] = {"namespace": f"scan-{name}", "tests": True}
    if name == "secure":
        return helm_template(files=SECURE, **options)
    if name == "secure-jobs":
        (config,) = [m for m in manifests(files=SECURE) if m["kind"] == "ConfigMap"]
        settings = Settings.model_validate(yaml.safe_load(config["data"]["settings.yaml"]))
        return yaml.safe_dump_all(
            [made(stage, configured=settings) for stage in Stage]
            + [run_object(kind) for kind in ("Service", "NetworkPolicy")]
        )
    return helm_template(*INSTALLS[name], *RELEASED, **options)


def checkov_report(folder: Path) -> tuple[int, list[tuple[str, str, str]]]:
    """The number of passed checks of all files of a folder, and the failed checks."""
    done = subprocess.run(
        [
            *checkov.command(),
            *("--directory", folder, "--framework", "kubernetes", "--skip-download"),
            *("--output", "json", "--quiet"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    failed = [
        (Path(check["file_path"]).stem, check["check_id"], check["resource"])
        for check in report["results"]["failed_checks"]
    ]
    assert report["summary"]["skipped"] == 0
    assert report["summary"]["parsing_errors"] == 0
    return report["summary"]["passed"], failed


def kube_score(text: str) -> dict[str, set[str]]:
    """The critical checks of kube-score, with the names of their objects."""
    done = subprocess.run(
        [binaries.path("kube-score"), "score", "--output-format", "json", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, set[str]] = {}
    for item in json.loads(done.stdout):
        for check in item["checks"] or ():
            if check["grade"] == 1 and not check["skipped"]:
                found.setdefault(check["check"]["id"], set()).add(item["object_name"])
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[tuple[str, str, str]]]:
    folder = tmp_path_factory.mktemp("rendered")
    for name in DOCUMENTS:
        (folder / f"{name}.yaml").write_text(document(name))
    return checkov_report(folder)


def test_checkov_finds_nothing(report: tuple[int, list[tuple[str, str, str]]]) -> None:
    passed, failed = report
    assert failed == []
    assert passed > 500, "checkov has read the objects"


def test_checkov_finds_what_is_wrong(tmp_path: Path) -> None:
    """Without digests, the two images are all that is wrong with the defaults."""
    (tmp_path / "sources.yaml").write_text(helm_template(tests=True))
    insecure = document("jobs").replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")
    (tmp_path / "jobs.yaml").write_text(insecure)
    _, failed = checkov_report(tmp_path)
    images = {check for name, check, _ in failed if name == "sources"}
    assert images == {"CKV_K8S_15", "CKV_K8S_43"}
    assert {check for name, check, _ in failed if name == "jobs"} == {"CKV_K8S_22"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_kube_score_finds_only_what_is_not_on_by_default(name: str) -> None:
    expected = set() if name.startswith("secure") else NOT_BY_DEFAULT
    assert set(kube_score(document(name))) == expected

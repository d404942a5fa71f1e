"""Every command of the documentation works.

kubectl and Helm run against a real API server; commands that would change the cluster run as dry runs. A
target of make has to exist in the Makefile. A Python program has to print its help. COVERED lists the other
commands.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from devcluster import binaries
from devcluster.controlplane import control_plane

pytestmark = pytest.mark.api
ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("examples", "devcluster", "charts/finetune-operator")),
]
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
UPGRADE, RELEASE, TRIAL = "tests/e2e/test_upgrade.py", "tests/release/test_release.py", "release/trial.py"
ENDED = {
    "status": {
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "reason": "Succeeded",
                "message": "",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            for kind in ("Finished", "Succeeded")
        ]
    }
}
COVERED = {
    "git clone": ".ci/run works on a clone",
    "make demo CLUSTER=current": "needs a cluster, a registry and a store of the reader",
    "docker build": "no Docker here: devcluster/builder.py builds the same Dockerfile with buildah",
    "helm test": UPGRADE,
    "helm rollback": UPGRADE,
    "helm uninstall": UPGRADE,
    "helm history": "prints the revisions that helm rollback takes",
    "kubectl --namespace finetune-system logs": "needs the pod of helm test",
    "kubectl -n support logs": "needs pods; tests/e2e/scene.py reads logs with the same selector",
    "aws s3api put-bucket-lifecycle-configuration": "tests/trainer/s3/test_versions.py sets the same rules",
    "mc ilm rule import": "tests/trainer/s3/test_versions.py sets the same rules",
    "mc admin policy": "tests/trainer/s3/test_policies.py attaches the policies to a real MinIO",
    "aws s3 cp": "needs a store of the reader; tests/e2e/test_demo.py reads the same file",
    "aws s3 sync": "needs a store of the reader",
    "hf download": "needs the Hugging Face Hub",
    "sh tickets-v1/serving/vllm.sh": "tests/trainer/report/test_serving.py runs it with a stand-in for vLLM",
    "ollama create": "Ollama is no part of the project",
    "text-embeddings-router": "Text Embeddings Inference is no part of the project",
    "curl localhost:8080/predict": "needs the server of the line above",
    "sha256sum --check": RELEASE,
    "tar -xf": TRIAL,
    "cd finetune-VERSION": TRIAL,
    "./bin/crane auth login": "needs a registry with a login",
    "./install.sh": RELEASE,
    "helm upgrade --install finetune-operator finetune-operator-VERSION.tgz": TRIAL,
    "export KUBECONFIG=": "sets a variable",
    "pip download": "downloads the packages that examples/packages.py downloads",
}
"""The commands that this module does not run, by their first words: who runs them, or why no test does."""
DRY_RUN = ("create", "apply", "patch", "delete", "install", "upgrade")
"""Commands of kubectl and Helm that run as dry runs of the API server."""


def commands(page: Path) -> Iterator[str]:
    """The commands of the sh blocks of a page, without comments and loops. A pipeline is one command."""
    for block in BLOCK.findall(page.read_text()):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            text = re.sub(r"(^|\s+)#.*$", "", line).strip()
            if text and not re.match(r"for .*; do$|done$", text):
                yield text


def runnable(command: str) -> str:
    """The command as the test runs the command."""
    program, *words = command.split()
    if program == "make":
        # A dry run (make -n) would still run the lines of the Makefile that call make again.
        return f"grep -q '^{words[0]}:' Makefile"
    if program.endswith("python"):
        module = words[1]
        if module == "pytest":
            return f"{sys.executable} {' '.join(words)} --collect-only -q"
        return f"{sys.executable} -m {module} --help"
    text = (
        command.replace("...", "value")
        .replace("namespace support", "namespace another")
        .replace("NAMESPACE", "support")
    )
    text = re.sub(r" (-w|--wait)$", "", text)
    # The cluster of the test has an operator already.
    text = text.replace("--server-side", "--server-side --force-conflicts")
    if "values-secure.yaml" in text:
        text = text.replace("site.yaml", "docs/security/locked-down.yaml")
    return re.sub(
        rf"(kubectl|helm)((?: -n \S+| --namespace \S+)* (?:{'|'.join(DRY_RUN)}))\b",
        r"\1\2 --dry-run=server",
        text,
    )


CASES = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}: {command[:60]}")
    for page in PAGES
    for command in commands(page)
    if not command.startswith(tuple(COVERED))
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a reader: a clone, kubectl and Helm, and a cluster with the operator and an ended job."""
    folder = tmp_path_factory.mktemp("desk")
    for entry in ROOT.iterdir():
        (folder / entry.name).symlink_to(entry)
    (folder / "bin").mkdir()
    for program in ("kubectl", "helm"):
        (folder / "bin" / program).symlink_to(binaries.path(program))
    (example,) = re.findall(
        r"## A job\n\n```yaml\n(.*?)```", (ROOT / "docs/user-guide.md").read_text(), re.DOTALL
    )
    files = {
        "my-job.yaml": example,
        "site.yaml": yaml.safe_dump({"global": {"imageRegistry": "registry.example"}}),
        "team-a.yaml": yaml.safe_dump({"watchNamespaces": ["team-a"]}),
        "company-ca.pem": "a certificate",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    ended = json.dumps(ENDED)
    with control_plane(folder / "control-plane", controllers=True):
        for namespace in ("support", "argocd", "team-a", "team-support", "team-research"):
            assert run(f"kubectl create namespace {namespace}", folder) == ""
        chart = "finetune-operator charts/finetune-operator --namespace finetune-system --create-namespace"
        assert run(f"helm install {chart} --set global.imageRegistry=registry.example", folder) == ""
        for command in (
            "kubectl -n argocd create configmap argocd-cm",
            "kubectl wait --for=condition=Established crd/finetunejobs.finetune.dev",
            "kubectl apply -f my-job.yaml",
            f"kubectl -n support patch ftj tickets-v1 --subresource=status --type=merge --patch='{ended}'",
        ):
            assert run(command, folder) == ""
        yield folder


def run(command: str, folder: Path) -> str:
    """Runs a command in the shell of the reader; returns the error if the command fails."""
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "KUBECONFIG": str(folder / "control-plane/kubeconfig"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return done.stderr + done.stdout if done.returncode else ""


@pytest.mark.parametrize("command", CASES)
def test_a_command_of_the_documentation_works(desk: Path, command: str) -> None:
    error = run(runnable(command), desk)
    assert not error, f"{runnable(command)}\n{error}"


@pytest.mark.parametrize("words", COVERED)
def test_a_command_that_is_tested_elsewhere_is_in_the_documentation(words: str) -> None:
    assert any(command.startswith(words) for page in PAGES for command in commands(page))
    for path in re.findall(r"[\w/.]+/[\w/]+\.py", COVERED[words]):
        assert (ROOT / path).is_file()

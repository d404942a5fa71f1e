"""What the releases install: ours by Helm, the peers' by the kustomizations that lie in their Go modules.

Deployments are left out: without a kubelet their programs run beside the API server, with the arguments and
the configuration of the release. Only where a program listens, and where its webhooks are found, is changed.
"""

import base64
import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from devcluster import binaries
from devcluster.binaries import Program
from devcluster.places import REPOSITORY, DevclusterError

Manifest = dict[str, Any]
_GO = Path(__file__).parent.parent / "go"
TRAINER = Program(_GO / "trainer", "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager")
JOBSET = Program(_GO / "jobset", "sigs.k8s.io/jobset")
TRAINER_MODULE = "github.com/kubeflow/trainer/v2"
JOBSET_MODULE = "sigs.k8s.io/jobset"
TRAINER_NAMESPACE = "kubeflow-system"
"""As the overlay says that cannot be used here: it takes JobSet from an address on the internet."""
OWN_NAMESPACE = "finetune-system"
_WEBHOOKS = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}


def own() -> list[Manifest]:
    """Everything our chart makes with its own values."""
    chart = REPOSITORY / "charts/finetune-operator"
    told = _run(
        *("helm", "template", "finetune-operator", str(chart), "--skip-tests", "--namespace", OWN_NAMESPACE)
    )
    return [_namespace(OWN_NAMESPACE), *_documents(told)]


def jobset() -> list[Manifest]:
    """Everything JobSet's release manifest holds."""
    return _documents(_run("kubectl", "kustomize", str(_sources(JOBSET, JOBSET_MODULE) / "config/default")))


def trainer(folder: Path) -> list[Manifest]:
    """Everything Kubeflow Trainer's release manifest holds but JobSet.

    Args:
        folder: a new or empty folder to write a kustomization into.
    """
    base = _sources(TRAINER, TRAINER_MODULE) / "manifests/base"
    folder.mkdir(parents=True, exist_ok=True)
    kustomization = {
        "namespace": TRAINER_NAMESPACE,
        "resources": [
            os.path.relpath(base / part, folder) for part in ("crds", "manager", "rbac", "webhook")
        ],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return [_namespace(TRAINER_NAMESPACE), *_documents(_run("kubectl", "kustomize", str(folder)))]


def trainer_runtime() -> Manifest:
    """The smallest ClusterTrainingRuntime of the release: plain PyTorch, one replicated Job."""
    runtimes = _sources(TRAINER, TRAINER_MODULE) / "manifests/base/runtimes"
    runtime: Manifest = yaml.safe_load((runtimes / "torch_distributed.yaml").read_text())
    return runtime


def installed(manifests: list[Manifest], webhook_port: int, ca: bytes) -> list[Manifest]:
    """What of a release is given to the API server, its webhooks at a port of this machine."""
    return [_webhooks_here(m, webhook_port, ca) for m in manifests if m["kind"] != "Deployment"]


def configuration(manifests: list[Manifest], key: str) -> Any:
    """The parsed content of the only ConfigMap of a release that has that key."""
    (found,) = [m["data"][key] for m in manifests if m["kind"] == "ConfigMap" and key in m.get("data", {})]
    return yaml.safe_load(found)


def arguments(manifests: list[Manifest]) -> list[str]:
    """The arguments of the only container of a release's only Deployment."""
    (deployment,) = [m for m in manifests if m["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return list(container.get("args", []))


def overlaid(below: Any, above: Any) -> Any:
    """A configuration with parts of it replaced; mappings are joined."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: overlaid(below.get(key), value) for key, value in above.items()}


def apply(kubeconfig: Path, manifests: list[Manifest]) -> None:
    """Applies manifests, as an administrator does."""
    options = ("--server-side", "--force-conflicts", "--filename=-")
    _run("kubectl", f"--kubeconfig={kubeconfig}", "apply", *options, given=yaml.safe_dump_all(manifests))


def _webhooks_here(manifest: Manifest, port: int, ca: bytes) -> Manifest:
    if manifest["kind"] not in _WEBHOOKS:
        return manifest
    here = copy.deepcopy(manifest)
    for webhook in here["webhooks"]:
        path = webhook["clientConfig"]["service"]["path"]
        bundle = base64.b64encode(ca).decode()
        webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
    return here


def _namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _sources(program: Program, module: str) -> Path:
    return binaries.sources(program, module)


def _documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def _run(program: str, *arguments: str, given: str = "") -> str:
    done = subprocess.run(  # noqa: S603 - a program of ours
        [binaries.path(program), *arguments], input=given, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DevclusterError(f"{program} {' '.join(arguments)} failed: {done.stderr.strip()[-600:]}")
    return done.stdout

"""The chart installed on a real API server, and people who use it."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devcluster import binaries
from devcluster.controlplane import control_plane
from tests.chart.conftest import helm_template

NAMESPACE = "team-a"
OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"
POLICY_SECONDS = 60.0
PEOPLE = """
apiVersion: v1
kind: Namespace
metadata: {name: team-a}
---
apiVersion: v1
kind: Namespace
metadata: {name: team-b}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: jobs, namespace: team-a}
rules:
  - apiGroups: [finetune.dev]
    resources: [finetunejobs, finetunejobs/status]
    verbs: [get, create, update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: jobs, namespace: team-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: jobs}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: owner}
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: guest}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: read-s3, namespace: team-a}
rules:
  - {apiGroups: [""], resources: [secrets], resourceNames: [s3], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: read-s3, namespace: team-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: read-s3}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: owner}
"""


class Cluster:
    """kubectl, as one person or another."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, stdin: str = "", user: str = "") -> subprocess.CompletedProcess[str]:
        identity = [f"--as={user}"] if user else []
        return subprocess.run(
            [binaries.path("kubectl"), f"--kubeconfig={self.kubeconfig}", *identity, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def done(self, *arguments: str, stdin: str = "", user: str = "") -> str:
        said = self.kubectl(*arguments, stdin=stdin, user=user)
        assert said.returncode == 0, said.stderr
        return said.stdout

    def write(self, verb: str, job: dict[str, Any], user: str, *more: str) -> str:
        """Writes a job; returns the refusal, empty if there was none."""
        said = self.kubectl(verb, "-f", "-", *more, stdin=json.dumps(job), user=user)
        return said.stderr if said.returncode else ""


@contextmanager
def installed(folder: Path, enforced: Callable[[Cluster], bool], *values: str) -> Iterator[Cluster]:
    """An API server with the chart, two people in team-a, and policies in force as `enforced` sees."""
    with control_plane(folder) as kubeconfig:
        cluster = Cluster(kubeconfig)
        cluster.done("create", "namespace", "finetune-system")
        cluster.done("apply", "--server-side", "-f", "-", stdin=helm_template(*values))
        cluster.done("apply", "-f", "-", stdin=PEOPLE)
        cluster.done("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", "--timeout=60s")
        deadline = time.monotonic() + POLICY_SECONDS
        while not enforced(cluster):
            assert time.monotonic() < deadline, "the policies are not enforced"
            time.sleep(0.5)
        yield cluster

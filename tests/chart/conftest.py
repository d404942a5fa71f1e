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
def helm_template(*values: str, namespace: str = "finetune-system") -> str:
    arguments = [part for value in values for part in ("--set-json", value)]
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


@pytest.fixture(scope="session")
def render() -> Callable[..., list[Manifest]]:
    """Renders the chart with values written as `path=JSON`."""

    def rendered(*values: str, namespace: str = "finetune-system") -> list[Manifest]:
        return [doc for doc in yaml.safe_load_all(helm_template(*values, namespace=namespace)) if doc]

    return rendered

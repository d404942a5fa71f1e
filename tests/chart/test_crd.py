"""The CustomResourceDefinition in the chart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Render = Callable[..., list[dict[str, Any]]]
ROOT = Path(__file__).parents[2]
KIND = "CustomResourceDefinition"


def test_chart_carries_the_generated_definition() -> None:
    generated = (ROOT / "crds/finetunejobs.yaml").read_text()
    assert (ROOT / "charts/finetune-operator/files/finetunejobs.yaml").read_text() == generated


def test_definition_is_kept_on_uninstall_and_else_unchanged(render: Render) -> None:
    (rendered,) = [m for m in render() if m["kind"] == KIND]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    generated = yaml.safe_load((ROOT / "crds/finetunejobs.yaml").read_text())
    assert rendered["spec"] == generated["spec"]
    assert rendered["metadata"]["name"] == generated["metadata"]["name"]


def test_definition_can_be_left_out(render: Render) -> None:
    assert not [m for m in render("crds.install=false") if m["kind"] == KIND]

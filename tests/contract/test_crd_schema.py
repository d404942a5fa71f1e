import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api import crd

ROOT = Path(__file__).parents[2]
YAML_BOOLEANS = {"y", "n", "yes", "no", "on", "off", "true", "false"}


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from fields(inner, f"{path}.{name}")
    for nested in ("items", "additionalProperties"):
        if isinstance(schema.get(nested), dict):
            yield from fields(schema[nested], f"{path}[]")


SCHEMA = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
FIELDS = {path: field for path, field in fields(SCHEMA) if path not in {".apiVersion", ".kind", ".metadata"}}


def test_schema_is_not_empty() -> None:
    assert ".spec.training.learningRate" in FIELDS
    assert ".status.evaluation.tuned.metrics[].low" in FIELDS


def test_generated_files_are_fresh(tmp_path: Path) -> None:
    fresh = tmp_path / "crd.yaml"
    subprocess.run([sys.executable, "-m", "finetune_operator.api.crd", str(fresh)], check=True, cwd=ROOT)
    assert (ROOT / "crds/finetunejobs.yaml").read_text() == fresh.read_text()


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_is_described(path: str) -> None:
    assert FIELDS[path].get("description", "").endswith((".", ".)"))


@pytest.mark.parametrize("path", FIELDS)
def test_no_field_name_is_a_yaml_boolean(path: str) -> None:
    assert path.rsplit(".", 1)[-1].removesuffix("[]").lower() not in YAML_BOOLEANS


@pytest.mark.parametrize("path", [path for path in FIELDS if path.startswith(".spec")])
def test_every_field_of_the_spec_is_bounded(path: str) -> None:
    field = FIELDS[path]
    match field.get("type", "int-or-string"):
        case "string":
            assert "enum" in field or "maxLength" in field
        case "array":
            assert "maxItems" in field
        case "integer" | "number":
            assert {"minimum", "maximum"} <= field.keys()
        case "int-or-string":
            assert "x-kubernetes-validations" in field or "maxLength" in field
        case kind:
            assert kind in {"object", "boolean"}


@pytest.mark.parametrize("path", [path for path in FIELDS if path.startswith(".spec")])
def test_every_default_is_told(path: str) -> None:
    default, told = FIELDS[path].get("default"), FIELDS[path]["description"]
    if isinstance(default, str | int | float):
        written = str(default).lower() if isinstance(default, bool) else f"{default}".removesuffix(".0")
        assert re.search(rf"Default:? {re.escape(written)}\b", told)


@pytest.mark.parametrize("path", [path for path in FIELDS if path.startswith(".spec")])
def test_every_optional_field_says_what_its_absence_means(path: str) -> None:
    parent, _, name = path.rpartition(".")
    above = FIELDS.get(parent.removesuffix("[]"), {})
    if parent.endswith("[]"):
        above = above["items"]
    if name.endswith("[]") or name in above.get("required", ()) or parent == "":
        return
    assert re.search(r"Default|Set exactly one|Required with", FIELDS[path]["description"])


def test_nothing_that_the_api_server_refuses() -> None:
    text = yaml.safe_dump(SCHEMA)
    for keyword in ("$ref", "propertyNames", "const:", "additionalProperties: false", "default: null"):
        assert keyword not in text

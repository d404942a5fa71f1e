"""The generated CustomResourceDefinition; tests/api/test_crd.py applies the definition to an API server."""

from collections.abc import Iterator
from typing import Any

from finetune_operator.api import crd

FORBIDDEN = {
    "$ref",
    "definitions",
    "$defs",
    "patternProperties",
    "propertyNames",
    "dependencies",
    "const",
    "if",
}
"""Keywords of JSON Schema that the API server refuses in a structural schema."""


def schemas(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(node.get(keyword), dict):
            yield from schemas(node[keyword], f"{path}[]")


def test_the_schema_has_only_keywords_that_the_api_server_accepts() -> None:
    (version,) = crd.definition()["spec"]["versions"]
    found = dict(schemas(version["schema"]["openAPIV3Schema"]))
    assert ".status.data.account.leftOut[]" in found
    assert {path: node.keys() & FORBIDDEN for path, node in found.items() if node.keys() & FORBIDDEN} == {}

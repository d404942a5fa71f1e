"""Generates the CustomResourceDefinition: the models of api/ as a Kubernetes structural schema.

`python -m finetune_operator.api.crd FILE...` writes the definition to each file; `make generate` calls it.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from finetune_operator.api import FineTuneJob, FineTuneJobSpec
from finetune_operator.api.changes import changes
from finetune_operator.names import GROUP, KIND, PLURAL, VERSION

COLUMNS = (
    ("State", "string", ".status.state", 0, "State of the job in one word."),
    ("Stage", "string", ".status.stage", 0, "Current stage of the job."),
    ("Progress", "integer", ".status.progress.percent", 0, "Share of the stage that is done, in percent."),
    ("Metric", "string", ".status.evaluation.primaryMetric", 0, "Name of the primary metric."),
    ("Tuned", "number", ".status.evaluation.tuned.primary", 0, "Primary metric of the tuned model."),
    ("Baseline", "number", ".status.evaluation.baseline.primary", 0, "Primary metric of the base model."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the creation of the job."),
    ("Step", "integer", ".status.progress.step", 1, "Number of optimizer steps done."),
    ("Loss", "number", ".status.progress.loss", 1, "Newest loss on the training rows."),
    ("ETA", "integer", ".status.progress.etaSeconds", 1, "Estimated seconds until the stage is done."),
    ("Model", "string", ".status.model.uri", 1, "Folder of the published model."),
    ("Message", "string", ".status.message", 1, "State of the job in a sentence."),
)


class StructuralSchema(GenerateJsonSchema):
    """JSON Schema in the dialect that the Kubernetes API server accepts."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """The schema of the inner type: an optional field may be absent, never null."""
        return self.generate_inner(schema["schema"])

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        """An enum of strings, also for a single value."""
        return {"type": "string", "enum": list(schema["expected"])}


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of a model: references are replaced, and unsupported keywords are left out."""
    root = model.model_json_schema(by_alias=True, schema_generator=StructuralSchema)
    definitions = root.pop("$defs", {})
    schema: dict[str, Any] = _structural(root, definitions)
    return schema


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneJob."""
    schema = structural(FineTuneJob)
    for typed in ("apiVersion", "kind", "metadata"):
        schema["properties"].pop(typed)
    schema["required"] = ["spec"]
    for field in changes(FineTuneJobSpec):
        _add_sentence(schema, field.path.split("."), field.change.value)
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
        "kind": {"type": "string", "description": KIND},
        "metadata": {"type": "object"},
        **schema["properties"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ftj"],
                "categories": ["ai"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "priority": wide, "description": text}
                        for name, kind, path, wide, text in COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def write(*files: Path) -> None:
    """Writes the definition to files."""
    text = "# Generated from operator/finetune_operator/api/ by `make generate`. Do not edit.\n"
    text += yaml.safe_dump(definition(), sort_keys=False, width=110, allow_unicode=True)
    for file in files:
        file.write_text(text)


def _structural(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_structural(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    while "$ref" in node:
        here = {key: value for key, value in node.items() if key != "$ref"}
        node = definitions[node["$ref"].rsplit("/", 1)[-1]] | here
    out = {
        key: _without_nulls(value) if key == "default" else _structural(value, definitions)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
        and not (key == "additionalProperties" and value is False)
        and key != "propertyNames"
    }
    if patterns := out.pop("patternProperties", None):
        # Structural schemas have no patterns of keys; the trainer checks the keys.
        (out["additionalProperties"],) = patterns.values()
    if out.get("x-kubernetes-int-or-string") is True:
        out.pop("type", None)
        out.pop("anyOf", None)
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(out.get(exclusive), int | float):
            out |= {bound: out[exclusive], exclusive: True}
    if isinstance(out.get("description"), str):
        out["description"] = " ".join(out["description"].split())
    return out


def _add_sentence(schema: dict[str, Any], path: list[str], sentence: str) -> None:
    """Adds a sentence to the description of the field at a path."""
    for name in path:
        schema = schema["properties"][name]
    schema["description"] += f" {sentence}"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))

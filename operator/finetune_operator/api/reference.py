"""Generates docs/api.md: every field of the FineTuneJob, from the CustomResourceDefinition.

`python -m finetune_operator.api.reference FILE` writes the page; `make generate` calls it.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_operator.api.crd import definition
from finetune_operator.names import API_VERSION, KIND

_HEAD = f"""<!-- Generated from the CustomResourceDefinition by `make generate`. Do not edit. -->
# API reference

This page lists every field of a `{KIND}` (`{API_VERSION}`, short name `ftj`), with the text of
`kubectl explain`. A field in **bold** is required. The API server refuses unknown fields and values outside
of the limits, and checks the rules below a table. The [user guide](user-guide.md) has examples. The
[glossary](glossary.md) explains the words.
"""
_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} keys",
}


def page() -> str:
    """The page in Markdown."""
    (version,) = definition()["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    parts = [_HEAD]
    for name in ("spec", "status"):
        for path, node in _objects(name, schema["properties"][name]):
            parts.append(_section(path, node))
    return "\n".join([*parts, _rules("## Rules for the whole job", schema)]).rstrip("\n") + "\n"


def _objects(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The object at a path and all objects below, in the order of the fields."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        inner, mark = _inner(child)
        if "properties" in inner:
            yield from _objects(f"{path}.{name}{mark}", inner)


def _inner(node: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The schema of the items of a list or the values of a map, with the mark for the path; else the node."""
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(node.get(keyword), dict):
            return node[keyword], mark
    return node, ""


def _section(path: str, node: dict[str, Any]) -> str:
    level = "#" * min(path.count(".") + 2, 4)
    lines = [f"{level} {path}", "", node.get("description", ""), ""]
    lines += ["| field | type | default | limits | description |", "|---|---|---|---|---|"]
    required = node.get("required", [])
    for name, child in node["properties"].items():
        shown = f"**`{name}`**" if name in required else f"`{name}`"
        inner, mark = _inner(child)
        if "properties" in inner:
            shown += f" ([fields](#{_anchor(f'{path}.{name}{mark}')}))"
        default = _code(json.dumps(child["default"])) if "default" in child else ""
        if "properties" in inner and default:
            default = "see the fields"
        cells = (shown, _type(child), default, _limits(child), _escaped(child.get("description", "")))
        lines.append("| " + " | ".join(cells) + " |")
    patterns = [f"* `{name}`: `{p}`" for name, child in node["properties"].items() if (p := _pattern(child))]
    if patterns:
        lines += ["", "Patterns of texts:", "", *patterns]
    return "\n".join([*lines, "", _rules("", node)])


def _anchor(path: str) -> str:
    """The anchor that GitHub and the site give to a heading with a path."""
    return "".join(c for c in path.lower() if c.isalnum() or c in "-_")


def _type(node: dict[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    inner, mark = _inner(node)
    if mark:
        return f"{'list' if mark == '[]' else 'map'} of {_type(inner)}"
    kinds = [choice["type"] for choice in node.get("anyOf", []) if "type" in choice]
    kind = node.get("type") or " or ".join(dict.fromkeys(kinds)) or "any"
    return f"{kind} ({node['format']})" if "format" in node else str(kind)


def _limits(node: dict[str, Any]) -> str:
    """The limits of a field, and of its choices, its items or its values."""
    found = []
    if choices := node.get("enum"):
        found.append("one of " + ", ".join(_code(str(choice)) for choice in choices))
    for keyword, text in _LIMITS.items():
        if keyword in node:
            exclusive = node.get(f"exclusive{keyword.capitalize()}") is True
            words = {"minimum": "more than {}", "maximum": "less than {}"}[keyword] if exclusive else text
            found.append(words.format(f"{node[keyword]:,}"))
    found += [limits for choice in node.get("anyOf", []) if (limits := _limits(choice))]
    inner, mark = _inner(node)
    if mark and "properties" not in inner and (limits := _limits(inner)):
        found.append(f"each: {limits}")
    return "; ".join(found)


def _pattern(node: dict[str, Any]) -> str | None:
    """The pattern of a text, of the items of a list of texts, or of one of several choices."""
    nodes = (node, _inner(node)[0], *node.get("anyOf", ()))
    return next((str(each["pattern"]) for each in nodes if "pattern" in each), None)


def _rules(heading: str, node: dict[str, Any]) -> str:
    """The messages of the CEL rules of a schema, as a list."""
    messages = [rule["message"] for rule in node.get("x-kubernetes-validations", []) if "message" in rule]
    if not messages:
        return ""
    lines = [f"* {_escaped(message)}" for message in messages]
    return "\n".join([heading or "Rules:", "", *lines, ""])


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())

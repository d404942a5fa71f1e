"""docs/api.md, the page with every field of the FineTuneJob."""

from pathlib import Path

from finetune_operator.api import crd, reference
from tests.operator.api.test_crd import schemas

PAGE = Path(__file__).parents[3] / "docs/api.md"


def test_the_page_is_that_of_the_definition() -> None:
    assert PAGE.read_text() == reference.page(), "run make generate"


def test_the_page_has_every_field_once() -> None:
    (version,) = crd.definition()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]
    fields = sum(
        len(node.get("properties", {})) for name in ("spec", "status") for _, node in schemas(spec[name])
    )
    rows = [line for line in reference.page().splitlines() if line.startswith(("| `", "| **`"))]
    assert len(rows) == fields


def test_a_row_has_default_and_limits() -> None:
    page = reference.page()
    assert "| `nodes` | integer | `1` | at least 1; at most " in page
    assert "| **`task`** | string |  | one of `TextClassification`, `TextGeneration` |" in page

"""The page as a whole: what is in it, and that no name from outside can do it harm."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.models.method_facts import MethodFacts
from finetune_trainer.report.page import Sources, render
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.tasks.registry import report_of
from tests.trainer.report.reading import LIMITS_OF_METHODS, read, texts

MOST_BYTES = 300_000
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src='https://evil.example/x' onerror=alert(1)>",
    "</style></svg></title><b>",
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnorw \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "nul \x00 and half \ud83d",
    "x" * 10_000,
    " ",
)
Records = Callable[..., TrainingRecord]
Runs = Callable[..., Sources]


def rendered(of: Sources) -> str:
    return render(of, report_of(of.config.run.task))


@pytest.fixture
def page(record_of: Records, sources_of: Runs, doctor: dict[str, Any]) -> str:
    return rendered(sources_of(record_of([f"queue {number}" for number in range(12)]), doctor))


def test_the_verdict_comes_first_then_every_part(page: str) -> None:
    assert texts(page, "h1")[0].endswith("Better than the linear probe: macro F1 0.7919 instead of 0.5348.")
    assert texts(page, "h2") == [
        "Results",
        "Classes",
        "Confusions",
        "Examples",
        "Training",
        "Data",
        "How it was made",
        "Limits and licence",
    ]
    anchors = [e.attributes["href"] for e in read(page) if e.name == "a"]
    assert anchors == [f"#{e.attributes['id']}" for e in read(page) if e.name == "section"]


def test_of_a_generator_less_loss_is_better_and_its_texts_stand_side_by_side(
    generator: TrainingRecord, sources_of: Runs, doctor: dict[str, Any]
) -> None:
    shown = rendered(sources_of(generator, doctor))
    assert texts(shown, "h1")[0].endswith("Better than the base model: loss 1.5000 instead of 3.0000.")
    assert texts(shown, "h2")[:3] == ["Results", "Before and after", "Training"]
    assert "left of zero is better" in shown
    assert "majority class" not in shown
    check_harmless(shown)


def test_the_same_documents_give_the_same_bytes(
    record_of: Records, sources_of: Runs, doctor: dict[str, Any], page: str
) -> None:
    again = sources_of(record_of([f"queue {number}" for number in range(12)]), doctor)
    assert rendered(again) == page


def test_a_thousand_classes_with_hostile_names_stay_small_and_well_formed(
    record_of: Records, sources_of: Runs, doctor: dict[str, Any]
) -> None:
    labels = [f"{number}{HOSTILE[number % len(HOSTILE)] * 5}" for number in range(1000)]
    finding = {
        "level": "error",
        "code": "Bad",
        "message": "&<" * 900,
        "count": 900,
        "lines": ["<'\"" * 99] * 99,
    }
    hostile = {**doctor, "findings": [finding] * 40, "labels": {label: {"train": 5} for label in labels}}
    record = record_of(labels, rows=800, text="<b>&\U0001f642" * 400)
    shown = rendered(sources_of(record, hostile, name=HOSTILE[1]))
    assert len(shown.encode()) < MOST_BYTES
    check_harmless(shown)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=6, unique=True), st.text(max_size=60))
def test_no_name_becomes_markup(record_of: Records, sources_of: Runs, labels: list[str], text: str) -> None:
    check_harmless(rendered(sources_of(record_of(labels, rows=60, text=text), None, name=text or "x")))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_name_does_no_harm_wherever_it_stands(
    hostile: str, record_of: Records, sources_of: Runs, doctor: dict[str, Any]
) -> None:
    data = {
        "findings": [
            {"level": "warning", "code": hostile, "message": hostile, "lines": [hostile], "count": 1}
        ],
        "files": {hostile: [{"uri": hostile, "digest": hostile}]},
        "labels": {hostile: {"train": 1}},
        "rows": {"train": 3},
        "lengths": {"train": {"histogram": {hostile: 3, "8+": 2}}},
    }
    record = record_of([hostile, "other"], text=hostile).model_copy(update={"devices": hostile})
    check_harmless(rendered(sources_of(record, data, name=hostile)))
    check_harmless(rendered(sources_of(record, {**doctor, **data}, name=hostile)))


def check_harmless(page: str) -> None:
    """Well formed, encodable, nothing that runs and nothing that is loaded."""
    page.encode()
    elements = read(page)
    assert {e.name for e in elements} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "header",
            "nav",
            "section",
            "footer",
            "div",
        ),
        *("h1", "h2", "h3", "p", "a", "ul", "li", "dl", "dt", "dd", "span", "strong", "small", "code", "bdi"),
        *("article", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"),
        *("svg", "g", "line", "polyline", "circle", "rect", "text"),
    }
    for element in elements:
        assert not any(name.startswith("on") or name == "src" for name in element.attributes)
        assert (element.attributes.get("href") or "#").startswith("#")
        assert not re.search(r"url\(|@import|expression", element.attributes.get("style") or "")
    (style,) = texts(page, "style")
    assert not re.search(r"url\(|@import", style)


def test_the_browser_is_told_to_run_and_load_nothing(page: str) -> None:
    (policy,) = (
        e.attributes["content"] for e in read(page) if "Content-Security-Policy" in e.attributes.values()
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_those_who_do_not_see_it_are_told(page: str) -> None:
    elements = read(page)
    assert elements[0].attributes["lang"] == "en"
    tables = [e for e in elements if e.name == "table"]
    assert len(tables) == len([e for e in elements if e.name == "caption"]) >= 8
    assert all(e.attributes.get("scope") in {"row", "col"} for e in elements if e.name == "th")
    for drawing in (e for e in elements if e.name == "svg" and e.attributes.get("class") in {"plot", "row"}):
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes["aria-label"]
    levels = [int(e.name[1]) for e in elements if re.fullmatch("h[1-6]", e.name)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [e.attributes["id"] for e in elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_letters_stand_out_from_what_is_behind_them(page: str, theme: int) -> None:
    """WCAG 2.2 AA: a contrast of 4.5 for text."""
    (style,) = texts(page, "style")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", blocks[theme]))
    for ink in ("ink", "soft", "blue", "amber", "good", "bad", "open", "grey"):
        assert contrast(colours[ink], colours["paper"]) >= 4.5, ink
    for behind in ("page", "fill", "open-tint"):
        assert contrast(colours["ink"], colours[behind]) >= 4.5, behind
    assert contrast(colours["soft"], colours["page"]) >= 4.5


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("facts", "limit"), LIMITS_OF_METHODS)
def test_the_page_says_what_the_method_leaves_unchanged(
    record_of: Records, sources_of: Runs, facts: MethodFacts, limit: str
) -> None:
    record = record_of(["a", "b"])
    shown = rendered(sources_of(record.model_copy(update={"method": facts})))
    assert any(limit in text for text in texts(shown, "li"))
    assert limit not in rendered(sources_of(record))

"""What the environments promise for every template."""

import re
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import finetune_trainer
from finetune_trainer.report import rendering
from tests.trainer.report.reading import drawn, read, texts

PARTS = "report/templates/parts.html.j2"
SHOW = '<p title="{{ text }}">{{ text }}</p>'
TEMPLATES = sorted(Path(finetune_trainer.__file__).parent.rglob("*.j2"))


def page(source: str, **values: object) -> str:
    return rendering.html().from_string(source).render(values)


@given(st.text())
def test_a_page_shows_any_text_as_it_is_and_never_as_markup(text: str) -> None:
    (element,) = read(page(SHOW, text=text))
    if text.isprintable():
        assert element.text == text
        assert element.attributes["title"] == text


@given(st.text(alphabet=st.characters(categories=["Cc", "Cs", "Ll"])))
def test_what_no_page_may_hold_is_replaced(text: str) -> None:
    card = rendering.card().from_string("{{ text }} {{ text|code }} {{ text|prose }}")
    for shown in (page(SHOW, text=text), card.render(text=text)):
        shown.encode()
        assert not set(shown) & set(map(chr, range(9)))


def test_the_card_escapes_every_value_but_code_spans() -> None:
    card = rendering.card().from_string("| {{ text }} | {{ text|code }} |").render(text="<b>a_b</b>")
    assert card == "| \\<b\\>a\\_b\\</b\\> | `<b>a_b</b>` |"


@pytest.mark.parametrize("environment", [rendering.html, rendering.card])
def test_a_value_that_a_template_misses_is_an_error(environment: object) -> None:
    assert callable(environment)
    with pytest.raises(jinja2.UndefinedError, match="absent"):
        environment().from_string("{{ absent }}").render()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_turns_the_escaping_off(path: Path) -> None:
    source = path.read_text("utf-8")
    assert not re.search(r"\|\s*safe", source)
    assert "autoescape" not in source
    assert "xmlattr" not in source, "the output of this filter keeps control characters"


def test_a_long_name_is_cut_and_stands_alone_in_its_direction() -> None:
    assert drawn(PARTS, "foreign", "short") == "<bdi>short</bdi>"
    (element,) = read(drawn(PARTS, "foreign", "x" * 500, 10))
    assert element.text == "x" * 9 + "…"
    assert element.attributes["title"] == "x" * 30
    (element,) = read(drawn(PARTS, "foreign", "x" * 500, 100))
    assert (len(element.text), element.attributes) == (100, {})


def test_names_in_our_own_words_stand_out() -> None:
    assert drawn(PARTS, "prose", "see `a<b`.").strip() == "<p>see <code>a&lt;b</code>.</p>"


def test_a_table_names_its_columns_and_rows() -> None:
    source = (
        f'{{% from "{PARTS}" import table, bar %}}'
        '{% call table("Sizes", ["name", "size"], bars="size") %}'
        '<tr><th scope="row">a</th>{{ bar("1", 0.5) }}</tr>{% endcall %}'
    )
    elements = read(page(source))
    assert [e.attributes.get("scope") for e in elements if e.name == "th"] == ["col", "col", "row"]
    cells = [e for e in elements if e.name in {"th", "td"}]
    assert [e.attributes.get("class") for e in cells] == [None, "bars", None, "bar"]
    assert texts(page(source), "caption") == ["Sizes"]
    assert texts(page(source), "td") == ["1"]

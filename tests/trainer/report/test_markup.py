from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.report.markup import Html, code, foreign, joined, prose, table, tag, text
from tests.trainer.report.reading import read, texts


@given(st.text())
def test_any_text_is_shown_as_it_is_and_never_as_markup(content: str) -> None:
    (element,) = read(tag("p", content, title=content))
    if content.isprintable():
        assert element.text == content
        assert element.attributes["title"] == content


@given(st.text(alphabet=st.characters(categories=["Cc", "Cs", "Ll"])))
def test_what_no_page_may_hold_is_replaced(content: str) -> None:
    shown = text(content)
    shown.encode()
    assert not set(shown) & set(map(chr, range(9)))


def test_markup_that_is_handled_like_a_text_is_escaped_again() -> None:
    bold = tag("b", "x")
    assert tag("p", bold) == "<p><b>x</b></p>"
    assert tag("p", bold + "!") == "<p>&lt;b&gt;x&lt;/b&gt;!</p>"
    assert joined([bold, "<"]) == "<b>x</b>&lt;"


def test_attributes_are_named_as_in_html() -> None:
    assert tag("td", class_="n", aria_label='"', rowspan=2, id=None) == (
        '<td class="n" aria-label="&quot;" rowspan="2"></td>'
    )
    assert tag("meta", name="viewport") == '<meta name="viewport">'


def test_a_long_name_is_cut_and_stands_alone_in_its_direction() -> None:
    assert foreign("short") == "<bdi>short</bdi>"
    (element,) = read(foreign("x" * 500, 10))
    assert element.text == "x" * 9 + "…"
    assert element.attributes["title"] == "x" * 30


def test_names_in_our_own_words_stand_out() -> None:
    assert prose("see `a<b`.") == "<p>see <code>a&lt;b</code>.</p>"
    assert code("x") == "<code>x</code>"


def test_a_table_names_its_columns_and_rows() -> None:
    markup = table("Sizes", ("name", "size"), [("a", "1"), ("b", tag("td", "2", class_="x"))])
    elements = read(markup)
    assert [e.attributes.get("scope") for e in elements if e.name == "th"] == ["col", "col", "row", "row"]
    assert texts(markup, "caption") == ["Sizes"]
    assert texts(markup, "td") == ["1", "2"]
    assert isinstance(markup, Html)

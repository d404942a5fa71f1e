"""The pages of the site: their links, and what they load."""

import tomllib
from pathlib import Path

import pytest

from website.__main__ import ROOT, BadLinkError, faults, for_site, pages

KNOWN = {
    "README.md": "index.md",
    "docs/user-guide.md": "user-guide.md",
    "docs/security/scans.md": "security/scans.md",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "code.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "text", "shown"),
    [
        ("README.md", "[guide](docs/user-guide.md#data)", "[guide](user-guide.md#data)"),
        ("docs/user-guide.md", "[start](../README.md)", "[start](index.md)"),
        ("docs/security/scans.md", "[guide](../user-guide.md)", "[guide](../user-guide.md)"),
        ("docs/user-guide.md", "[the code](../code.py) and more", "the code and more"),
        ("docs/user-guide.md", "[here](#data), [web](https://example.org/a)", None),
        ("docs/user-guide.md", "`[a](b)`", None),
        ("docs/user-guide.md", "```\n[a](b)\n```\n", None),
    ],
)
def test_links_hold_in_the_site(repository: Path, source: str, text: str, shown: str | None) -> None:
    assert for_site(text, source, KNOWN, repository) == (shown or text)


def test_a_link_to_a_missing_file_is_an_error(repository: Path) -> None:
    with pytest.raises(BadLinkError, match=r"docs/user-guide.md: the link to none.md leads nowhere"):
        for_site("[none](none.md)", "docs/user-guide.md", KNOWN, repository)


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="b.html#there">b</a><h1 id="here"></h1><a href="#here">h</a>', None),
        ('<a href="https://example.org">a link for people</a>', None),
        ('<link rel="canonical" href="https://docs.example">', None),
        (
            '<a href="b.html#nowhere">b</a>',
            "a.html: the link to b.html#nowhere names a section that does not exist",
        ),
        ('<a href="c.html">c</a>', "a.html: the link to c.html leads nowhere"),
        ('<script src="https://cdn.example/a.js"></script>', "a.html loads https://cdn.example/a.js"),
        ('<link rel="stylesheet" href="//fonts.example/a">', "a.html loads //fonts.example/a"),
    ],
)
def test_faults_of_a_built_page(tmp_path: Path, page: str, fault: str | None) -> None:
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text('<h1 id="there"></h1>')
    assert list(faults(tmp_path)) == ([fault] if fault else [])


def test_a_style_sheet_that_loads_a_font_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text(
        "@font-face {src: url('https://fonts.example/f.woff2')} b {src: url(data:x)}"
    )
    assert list(faults(tmp_path)) == ["a.css loads https://fonts.example/f.woff2"]


def test_every_page_is_in_the_navigation() -> None:
    navigation = str(tomllib.loads((ROOT / "website/zensical.toml").read_text())["project"]["nav"])
    made = [page for page in pages(ROOT).values() if page.endswith(".md")]
    assert made
    assert not [page for page in made if f"'{page}'" not in navigation]

"""Builds the site of the documentation: `python -m website` writes build/docs.

The pages of docs/ and a few README files of other folders become the pages of the site. A link from a page to
another page stays a link. A link to a file that is no page, for example to source code, becomes plain text,
because the site does not contain the file. The build fails if a link leads nowhere, or if a page loads
something from another server.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "website"
SITE = ROOT / "build" / "docs"
OTHER_PAGES = {
    "README.md": "index.md",
    "charts/finetune-operator/README.md": "values.md",
    "devcluster/README.md": "devcluster.md",
    "tests/operator/planning/golden/README.md": "golden-cases.md",
}
"""README files outside of docs/, and the pages that they become."""

_CODE_OR_LINK = re.compile(
    r"(?P<code>(?P<ticks>`+).*?(?P=ticks))"
    r"|\[(?P<label>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)",
    re.DOTALL,
)
"""A span of code, or a link or image. Text that looks like a link in a span of code is no link."""
_BLOCK = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
"""A block of code between two lines of three backticks."""


_ELSEWHERE = re.compile(r"([a-z]+:)?//|[a-z]+:")
"""An address on another server, or with another scheme such as mailto."""


class BadLinkError(Exception):
    """A link that leads nowhere."""


def pages(root: Path) -> dict[str, str]:
    """The files of the site: path in the repository -> path in the site."""
    inside = {
        path.relative_to(root).as_posix(): path.relative_to(root / "docs").as_posix()
        for path in sorted((root / "docs").rglob("*"))
        if path.is_file()
    }
    return inside | {source: page for source, page in OTHER_PAGES.items() if (root / source).exists()}


def for_site(text: str, source: str, known: dict[str, str], root: Path) -> str:
    """A page with the links that hold in the site.

    Args:
        text: the page in Markdown.
        source: path of the page in the repository.
        known: the files of the site, as `pages` returns them.
        root: the repository.

    Raises:
        BadLinkError: a link names a file that does not exist.
    """

    def changed(match: re.Match[str]) -> str:
        label, target = match["label"], match["target"]
        if match["code"] or re.match(r"[a-z]+:|#", target):
            return match[0]
        file, _, anchor = target.partition("#")
        wanted = os.path.normpath(os.path.join(os.path.dirname(source), file))  # noqa: PTH118, PTH120 - relative
        if wanted in known:
            relative = os.path.relpath(known[wanted], os.path.dirname(known[source]) or ".")  # noqa: PTH120
            return f"[{label}]({relative}{'#' + anchor if anchor else ''})"
        if not (root / wanted).exists():
            raise BadLinkError(f"{source}: the link to {target} leads nowhere")
        return label

    return "".join(
        part if _BLOCK.match(part) else _CODE_OR_LINK.sub(changed, part) for part in _BLOCK.split(text)
    )


class _Page(HTMLParser):
    """The addresses and anchors of one page.

    Attributes:
        loads: addresses from which a browser loads something to show the page.
        links: addresses to which a reader can go.
        anchors: the ids of the elements.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from one element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.loads.append(values.get("href", ""))
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "object", "embed"):
            self.loads.append(values.get("src") or values.get("data", ""))


def faults(site: Path) -> Iterator[str]:
    """The faults of a built site: links that lead nowhere, and what is loaded from another server."""
    made = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in made.items():
        name = path.relative_to(site)
        yield from (f"{name} loads {address}" for address in page.loads if _ELSEWHERE.match(address))
        for link in page.links:
            if _ELSEWHERE.match(link) or path.name == "404.html":
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists():
                yield f"{name}: the link to {link} leads nowhere"
            elif target in made and anchor and anchor not in made[target].anchors:
                yield f"{name}: the link to {link} names a section that does not exist"
    for path in sorted(site.rglob("*.css")):
        found = re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')]+)", path.read_text())
        yield from (f"{path.relative_to(site)} loads {a}" for a in found if re.match(r"(https?:)?//", a))


def build() -> None:
    """Write the site to build/docs.

    Raises:
        BadLinkError: a link names a file that does not exist.
    """
    shutil.rmtree(WORK, ignore_errors=True)
    known = pages(ROOT)
    for source, page in known.items():
        target = WORK / "source" / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            target.write_text(for_site((ROOT / source).read_text(), source, known, ROOT))
        else:
            shutil.copyfile(ROOT / source, target)
    shutil.copyfile(ROOT / "website" / "zensical.toml", WORK / "zensical.toml")
    shutil.copyfile(ROOT / "website" / "extra.css", WORK / "source" / "extra.css")
    command = (sys.executable, "-m", "zensical", "build", "--strict", "--clean")
    done = subprocess.run(command, cwd=WORK, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
    if done.returncode != 0:
        sys.exit(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr))
    if found := list(faults(WORK / "site")):
        sys.exit("\n".join(found))
    shutil.rmtree(SITE, ignore_errors=True)
    (WORK / "site").rename(SITE)


if __name__ == "__main__":
    try:
        build()
    except BadLinkError as error:
        sys.exit(str(error))

"""Makes examples/data/debian-sections from the archive lists of Debian 12 main.

A row is one source package: the description of one of its packages as text, that package's archive
section as label. Its README says what is left out and why, and how to run this. The same lists give
the same bytes: everything is sorted, and rows are drawn by a hash of the source package's name.
"""

import argparse
import hashlib
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SECTIONS = (
    "admin",
    "database",
    "games",
    "graphics",
    "mail",
    "math",
    "net",
    "science",
    "sound",
    "text",
    "video",
    "web",
)
"""Sections about a subject. Left out: sections that name a language or a kind of file (python, libs,
fonts, doc), which two words of boilerplate give away, and the catch-alls (utils, misc, x11, devel)."""

PACKAGES = "*_dists_bookworm_main_binary-amd64_Packages*"
DESCRIPTIONS = "*_dists_bookworm_main_i18n_Translation-en*"
RELEASE = "*_dists_bookworm_InRelease"

NO_SUBJECT = re.compile(
    r"\b(transitional|dummy|empty) (\w+ )?package|\bmeta-?\s?package|\bdebug(ging)? symbols"
)
SHORTEST_TEXT = 120
"""Characters; a shorter description is a title without a text."""
LONGEST_TEXT = 800
"""Characters; whole paragraphs are kept up to here."""
SHINGLE_WORDS = 5
NEAR_DUPLICATE = 0.3
"""Jaccard similarity of word shingles from which two texts count as one."""

Stanza = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One example."""

    package: str
    """Source package: says whose words these are, and keeps train and test apart."""
    text: str
    label: str


def archive_file(lists: Path, pattern: str) -> str:
    """Text of the one list that matches, whatever apt has compressed it with.

    Raises:
        SystemExit: none or several match.
    """
    found = sorted(lists.glob(pattern))
    if len(found) != 1:
        raise SystemExit(
            f"{lists} holds {len(found)} files like {pattern}; one is needed. Run the apt-get update of the "
            "data set's README into an empty folder."
        )
    command = ["/usr/lib/apt/apt-helper", "cat-file", str(found[0])]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout  # noqa: S603 - our own argument list


def stanzas(text: str) -> Iterator[Stanza]:
    """The stanzas of a Debian control file; continuation lines stay as they are."""
    for block in re.split(r"\n{2,}", text.strip()):
        fields: Stanza = {}
        name = ""
        for line in block.split("\n"):
            if line.startswith((" ", "\t")):
                fields[name] += "\n" + line
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        yield fields


def as_prose(description: str) -> str:
    """A control file's description as text: short description, then paragraphs, each on one line."""
    short, _, long = description.partition("\n")
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n \.(?=\n|$)", "\n" + long)]
    kept = " ".join(short.split())
    for paragraph in filter(None, paragraphs):
        if len(kept) + len(paragraph) >= LONGEST_TEXT:
            break
        kept += "\n" + paragraph
    return kept


def candidates(packages: Iterable[Stanza], descriptions: Iterable[Stanza]) -> list[Row]:
    """One row for each source package that has a describing package in one of SECTIONS."""
    english = {
        (stanza["Package"], stanza["Description-md5"]): stanza["Description-en"] for stanza in descriptions
    }
    of_source: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    for stanza in packages:
        name = stanza["Package"]
        description = english.get((name, stanza.get("Description-md5", "")))
        if stanza["Section"] not in SECTIONS or description is None or NO_SUBJECT.search(description.lower()):
            continue
        source = stanza.get("Source", name).split(" ")[0]
        row = Row(package=source, text=as_prose(description), label=stanza["Section"])
        if len(row.text) >= SHORTEST_TEXT:
            of_source[source].append((name, row))
    # The package called like its source, else the shortest name: the program, not its data or plugins.
    return [
        min(of_source[source], key=lambda named: (named[0] != source, len(named[0]), named[0]))[1]
        for source in sorted(of_source)
    ]


def words(text: str) -> list[str]:
    """Lower-case words: two texts with the same words are the same text."""
    return re.findall(r"\w+", text.lower())


def without_near_duplicates(rows: Iterable[Row]) -> list[Row]:
    """Leaves out each row whose text is nearly that of a row before it."""
    kept: list[Row] = []
    sizes: list[int] = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row in rows:
        spoken = words(row.text)
        shingles = {
            tuple(spoken[at : at + SHINGLE_WORDS]) for at in range(max(1, len(spoken) - SHINGLE_WORDS + 1))
        }
        shared = Counter(index for shingle in shingles for index in holders.get(shingle, ()))
        if any(
            common / (len(shingles) + sizes[index] - common) >= NEAR_DUPLICATE
            for index, common in shared.items()
        ):
            continue
        for shingle in shingles:
            holders[shingle].append(len(kept))
        kept.append(row)
        sizes.append(len(shingles))
    return kept


def drawn(rows: Iterable[Row], *, train: int, test: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and test rows, at most so many of a section; a fifth of a small section is for test.

    Which rows are for test does not depend on how many there are to train on.
    """

    def rank(row: Row) -> str:
        return hashlib.sha256(f"{seed}:{row.package}".encode()).hexdigest()

    by_section: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=rank):
        by_section[row.label].append(row)
    for_test: list[Row] = []
    for_train: list[Row] = []
    for of_section in by_section.values():
        cut = min(test, len(of_section) // 5)
        for_test += of_section[:cut]
        for_train += of_section[cut : cut + train]
    return sorted(for_train, key=rank), sorted(for_test, key=rank)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON Lines, UTF-8, keys text, label, package."""
    lines = [
        json.dumps({"text": row.text, "label": row.label, "package": row.package}, ensure_ascii=False) + "\n"
        for row in rows
    ]
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Reads the lists, writes train.jsonl and test.jsonl, prints what the README records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=Path, required=True, help="folder that apt-get update filled")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent / "data" / "debian-sections")
    parser.add_argument("--train", type=int, default=300, help="at most so many rows of a section")
    parser.add_argument("--test", type=int, default=80, help="at most so many rows of a section")
    parser.add_argument("--seed", type=int, default=12)
    options = parser.parse_args()

    packages = archive_file(options.lists, PACKAGES)
    descriptions = archive_file(options.lists, DESCRIPTIONS)
    described = candidates(stanzas(packages), stanzas(descriptions))
    distinct = without_near_duplicates(described)
    train, test = drawn(distinct, train=options.train, test=options.test, seed=options.seed)
    options.into.mkdir(parents=True, exist_ok=True)
    write_rows(options.into / "train.jsonl", train)
    write_rows(options.into / "test.jsonl", test)

    release = archive_file(options.lists, RELEASE)
    print(*re.findall(r"^(?:Version|Date): .*$", release, re.MULTILINE), sep="\n")
    for name, text in (("Packages", packages), ("Translation-en", descriptions)):
        print(f"sha256 of {name}: {hashlib.sha256(text.encode()).hexdigest()}")
    print(f"{len(described)} source packages described, {len(distinct)} without near-duplicates")
    in_train, in_test = (Counter(row.label for row in rows) for rows in (train, test))
    for section in sorted(SECTIONS):
        print(f"| {section} | {in_train[section]} | {in_test[section]} |")
    print(f"| all | {len(train)} | {len(test)} |")


if __name__ == "__main__":
    main()

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "make_debian_sections.py"

LONG = (
    "It reads what the {name} has to say and writes it down, at any hour of the day and of the night, "
    "in any of the {count} ways that are known to those who have studied them."
)


def described(name: str, *, section: str, short: str, long: str, source: str = "") -> tuple[str, str]:
    """A stanza of Packages and its stanza of Translation-en."""
    digest = f"md5-of-{name}"
    of_source = f"Source: {source} (1.0)\n" if source else ""
    package = (
        f"Package: {name}\n{of_source}Version: 1.0\nDescription: {short}\nDescription-md5: {digest}\n"
        f"Tag: role::program,\n interface::x11\nSection: {section}\n"
    )
    return package, f"Package: {name}\nDescription-md5: {digest}\nDescription-en: {short}\n {long}\n"


def subjects(section: str, count: int) -> list[tuple[str, str]]:
    """Packages of one section whose texts share few words."""
    return [
        described(
            f"{section}{number}",
            section=section,
            short=f"{section} number {number}",
            long=" ".join(f"{section}{number}word{word}" for word in range(20)),
        )
        for number in range(count)
    ]


def lists(folder: Path, entries: list[tuple[str, str]]) -> Path:
    """A folder as apt-get update leaves it."""
    folder.mkdir()
    start = "example_debian_dists_bookworm"
    packages, descriptions = ("\n".join(side) for side in zip(*entries, strict=True))
    (folder / f"{start}_main_binary-amd64_Packages").write_text(packages)
    (folder / f"{start}_main_i18n_Translation-en").write_text(descriptions)
    (folder / f"{start}_InRelease").write_text("Version: 12.15\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n")
    return folder


def make(from_lists: Path, into: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--lists", from_lists, "--into", into, *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def made(from_lists: Path, into: Path, *options: str) -> dict[str, dict[str, str]]:
    """All rows by source package, each with its split."""
    done = make(from_lists, into, *options)
    assert done.returncode == 0, done.stderr
    return {
        row["package"]: {**row, "split": split}
        for split in ("train", "test")
        for row in map(json.loads, (into / f"{split}.jsonl").read_text().splitlines())
    }


def test_text_is_the_short_description_and_the_paragraphs_without_their_line_ends(tmp_path: Path) -> None:
    paragraphs = (
        "First paragraph of\n some length, which goes on until it is long enough.\n .\n Second one,\n"
    )
    long = paragraphs + "  * with a point of its own."
    entry = described("chess", section="games", short="a  board game", long=long)
    rows = made(lists(tmp_path / "lists", [entry]), tmp_path / "rows")
    assert rows["chess"]["text"] == (
        "a board game\nFirst paragraph of some length, which goes on until it is long enough.\n"
        "Second one, * with a point of its own."
    )


def test_a_source_package_is_described_by_the_package_that_is_called_like_it(tmp_path: Path) -> None:
    entries = [
        described(
            "a-data", section="games", short="data", long=LONG.format(name="map", count=3), source="chess"
        ),
        described("chess", section="games", short="board game", long=LONG.format(name="king", count=64)),
        described(
            "chess-x", section="sound", short="noise", long=LONG.format(name="pawn", count=8), source="chess"
        ),
    ]
    rows = made(lists(tmp_path / "lists", entries), tmp_path / "rows")
    assert list(rows) == ["chess"]
    assert rows["chess"]["text"].startswith("board game\n")
    assert rows["chess"]["label"] == "games"


@pytest.mark.parametrize(
    "short",
    [
        "transitional package",
        "dummy package",
        "game (metapackage)",
        "game - debugging symbols",
        "empty dummy package",
    ],
)
def test_packages_without_a_subject_are_left_out(tmp_path: Path, short: str) -> None:
    entry = described("old", section="games", short=short, long=LONG.format(name="king", count=64))
    rows = made(lists(tmp_path / "lists", [entry, *subjects("net", 1)]), tmp_path / "rows")
    assert list(rows) == ["net0"]


def test_sections_that_name_no_subject_are_left_out(tmp_path: Path) -> None:
    rows = made(lists(tmp_path / "lists", subjects("libs", 2) + subjects("mail", 1)), tmp_path / "rows")
    assert list(rows) == ["mail0"]


def test_a_near_duplicate_of_another_source_package_is_left_out(tmp_path: Path) -> None:
    entries = [
        described(name, section="sound", short="synthesiser", long=LONG.format(name="synth", count=count))
        for name, count in (("synth1", 12), ("synth2", 13))
    ]
    rows = made(lists(tmp_path / "lists", entries), tmp_path / "rows")
    assert list(rows) == ["synth1"]


def test_each_section_is_capped_and_a_fifth_of_a_small_one_is_for_test(tmp_path: Path) -> None:
    entries = subjects("mail", 12) + subjects("net", 40)
    rows = made(lists(tmp_path / "lists", entries), tmp_path / "rows", "--train", "12", "--test", "5")
    counts = {
        (label, split): sum(row["label"] == label and row["split"] == split for row in rows.values())
        for label in ("mail", "net")
        for split in ("train", "test")
    }
    assert counts == {("mail", "train"): 10, ("mail", "test"): 2, ("net", "train"): 12, ("net", "test"): 5}


def test_more_rows_to_train_on_leave_the_test_rows_as_they_were(tmp_path: Path) -> None:
    folder = lists(tmp_path / "lists", subjects("net", 40) + subjects("mail", 40))
    few, many = (
        {
            package
            for package, row in made(folder, tmp_path / train, "--train", train, "--test", "5").items()
            if row["split"] == "test"
        }
        for train in ("10", "30")
    )
    assert few == many


def test_another_seed_draws_other_rows(tmp_path: Path) -> None:
    folder = lists(tmp_path / "lists", subjects("net", 60))
    one, two = (made(folder, tmp_path / seed, "--train", "20", "--seed", seed) for seed in ("1", "2"))
    assert set(one) != set(two)


def test_the_same_lists_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    entries = subjects("net", 30) + subjects("mail", 30)
    for name, ordered in (("one", entries), ("two", entries[::-1])):
        made(lists(tmp_path / f"lists-{name}", ordered), tmp_path / name)
    for split in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / "one" / split).read_bytes() == (tmp_path / "two" / split).read_bytes()


def test_missing_descriptions_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = lists(tmp_path / "lists", subjects("net", 2))
    shutil.move(folder / "example_debian_dists_bookworm_main_i18n_Translation-en", tmp_path)
    done = make(folder, tmp_path / "rows")
    assert done.returncode == 1
    assert "0 files like *_dists_bookworm_main_i18n_Translation-en*" in done.stderr
    assert "apt-get update" in done.stderr
    assert not (tmp_path / "rows").exists()

import json
from pathlib import Path

from examples import make_debian_summaries
from examples.make_debian_summaries import row


def test_the_long_description_is_the_prompt_and_the_short_one_the_completion() -> None:
    made = row("a clock\nShows the time.\nAnd the date.")
    assert made == {"prompt": "Shows the time.\nAnd the date.\n\nIn one line:", "completion": " a clock"}


def test_a_description_of_one_line_makes_no_row() -> None:
    assert row("a clock") is None


def test_every_committed_description_makes_a_row(tmp_path: Path) -> None:
    counts = make_debian_summaries.make(tmp_path)
    for name, count in counts.items():
        lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        source = (make_debian_summaries.SECTIONS / name).read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(source) == count
        assert all(sorted(json.loads(line)) == ["completion", "prompt"] for line in lines)

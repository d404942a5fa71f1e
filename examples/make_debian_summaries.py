"""Makes prompt/completion rows from data/debian-sections: `make_debian_summaries.py FOLDER`.

The prompt is a package's long description, the completion its short one: summing up in a line.
"""

import argparse
import json
from pathlib import Path

SECTIONS = Path(__file__).parent / "data" / "debian-sections"
QUESTION = "\n\nIn one line:"
"""Without a space at its end: tokens begin with theirs, so that the completion has it."""


def row(text: str) -> dict[str, str] | None:
    """A description's two parts as a row; None where it has only the short one."""
    short, _, long = text.partition("\n")
    return {"prompt": long + QUESTION, "completion": f" {short}"} if long else None


def make(folder: Path) -> dict[str, int]:
    """Writes train.jsonl and test.jsonl; the rows of each, by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name in ("train.jsonl", "test.jsonl"):
        texts = [json.loads(line)["text"] for line in (SECTIONS / name).read_text("utf-8").splitlines()]
        rows = [made for text in texts if (made := row(text))]
        lines = [json.dumps(made, ensure_ascii=False) + "\n" for made in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")
        counts[name] = len(rows)
    return counts


def main() -> None:
    """Makes the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files go; made if missing")
    for name, count in make(parser.parse_args().folder).items():
        print(f"{count} rows in {name}")


if __name__ == "__main__":
    main()

import json
from pathlib import Path

import numpy as np

from finetune_trainer.data.data_report import Lengths, build_report
from finetune_trainer.data.rows import RowSubset, Strata
from finetune_trainer.data.sources import DataFile
from finetune_trainer.tasks.text_classification.data import LabelledText
from tests.trainer.data.kept import kept

DIGEST = "sha256:" + "0" * 64


def lengths(*counts: int) -> Lengths:
    return Lengths(np.array(counts, dtype=np.int32))


def test_what_a_limit_cuts_off_is_counted_in_rows_and_tokens() -> None:
    assert lengths(3, 5, 9).count_excess(5) == (1, 4)
    assert lengths(3, 5, 9).count_excess(9) == (0, 0)


def test_lengths_are_told_as_histogram_and_percentiles() -> None:
    summarize = lengths(0, 7, 8, 300, 5000).summarize(256)
    assert {edge: count for edge, count in summarize["histogram"].items() if count} == {
        "0+": 2,
        "8+": 1,
        "256+": 1,
        "4096+": 1,
    }
    assert sum(summarize["histogram"].values()) == 5
    assert (summarize["percentiles"]["50"], summarize["percentiles"]["100"]) == (8, 5000)
    assert (summarize["tokens"], summarize["rowsCut"], summarize["tokensCut"]) == (5315, 2, 44 + 4744)


def test_the_report_names_every_file_of_every_split_and_counts_classes() -> None:
    def files(*names: str) -> tuple[DataFile, ...]:
        return tuple(DataFile(f"s3://d/{name}", name, Path("/x"), DIGEST, 7) for name in names)

    names = Strata()

    def rows(*labels: str) -> RowSubset:
        texts = [LabelledText(line, f"text {line}", label) for line, label in enumerate(labels, start=1)]
        return kept(texts, names).all_rows()

    made = build_report(
        {"train": rows("a", "b", "b"), "validation": rows("b"), "test": rows("a")},
        {"train": files("a.csv", "b.parquet"), "test": files("t.csv")},
        {"train": lengths(1, 2, 3), "validation": lengths(4), "test": lengths(5)},
        4,
    )
    assert made["files"] == {
        "train": [
            {"uri": "s3://d/a.csv", "digest": DIGEST, "size": 7},
            {"uri": "s3://d/b.parquet", "digest": DIGEST, "size": 7},
        ],
        "test": [{"uri": "s3://d/t.csv", "digest": DIGEST, "size": 7}],
    }
    assert made["rows"] == {"train": 3, "validation": 1, "test": 1}
    assert list(made["labels"].items()) == [
        ("b", {"train": 2, "validation": 1, "test": 0}),
        ("a", {"train": 1, "validation": 0, "test": 1}),
    ]
    assert made["lengths"]["test"]["rowsCut"] == 1
    json.dumps(made)

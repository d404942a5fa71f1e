import pytest

from finetune_trainer.data.listing import (
    no_files,
    repeat_ignored_files,
    report_ignored_files,
    select_data_files,
    shorten_uris,
)

FOLDER = "s3://data/tickets/"


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("a.jsonl", True),
        ("a.ndjson", True),
        ("a.json", True),
        ("A.CSV", True),
        ("a.tsv", True),
        ("a.parquet", True),
        ("a.csv.gz", True),
        ("a.jsonl.zst", True),
        ("year=2024/part-0.snappy.parquet", True),
        ("a.parquet.gz", False),
        ("a.jsonl.gz.zst", False),
        ("a.txt", False),
        ("a", False),
        ("jsonl", False),
        ("_SUCCESS", False),
        ("_part.parquet", False),
        (".part.parquet.crc", False),
        (".hidden.jsonl", False),
        ("_temporary/0/part-0.parquet", False),
        ("_delta_log/0.json", False),
        ("a/.b/c.csv", False),
    ],
)
def test_a_data_file_is_known_by_its_name(path: str, taken: bool) -> None:
    uri = FOLDER + path
    assert select_data_files(FOLDER, [uri]) == (([uri], []) if taken else ([], [uri]))


def test_only_what_lies_below_the_folder_counts() -> None:
    uri = "s3://data/_archive/.old/a.csv"
    assert select_data_files("s3://data/_archive/.old/", [uri]) == ([uri], [])


def test_the_order_stays_and_placeholders_of_folders_are_no_objects() -> None:
    uris = [FOLDER, *(FOLDER + path for path in ("b.csv", "README", "a/", "a.csv", "_SUCCESS"))]
    assert select_data_files(FOLDER, uris) == (
        [FOLDER + "b.csv", FOLDER + "a.csv"],
        [FOLDER + "README", FOLDER + "_SUCCESS"],
    )


@pytest.mark.parametrize(
    ("uris", "called"),
    [
        (["s3://data/tickets/a.csv"], ("a.csv",)),
        (["s3://data/tickets/a.csv", "s3://data/tickets/a.csv.gz"], ("a.csv", "a.csv.gz")),
        (["s3://data/y=1/part-0.csv", "s3://data/y=2/part-0.csv"], ("y=1/part-0.csv", "y=2/part-0.csv")),
        (["s3://data/a.csv", "s3://date/a.csv"], ("data/a.csv", "date/a.csv")),
    ],
)
def test_files_are_called_by_what_tells_them_apart(uris: list[str], called: tuple[str, ...]) -> None:
    assert shorten_uris(uris) == called


@pytest.mark.parametrize(
    "paths",
    [
        ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"],
        [
            "dataset_dict.json",
            "train/data-00000-of-00001.arrow",
            "train/dataset_info.json",
            "train/state.json",
        ],
    ],
)
def test_a_folder_of_save_to_disk_is_known(paths: list[str]) -> None:
    uris = [FOLDER + path for path in paths]
    taken, ignored = select_data_files(FOLDER, uris)
    assert (taken, ignored) == ([], uris)
    failure = no_files("dataset.train.uri", FOLDER, ignored)
    assert failure.reason == "NoFiles"
    assert "s3://data/tickets/ is a folder of datasets.save_to_disk" in failure.message
    assert "Write Parquet or JSON Lines" in failure.hint


def test_files_with_such_names_without_arrow_files_are_data() -> None:
    uris = [FOLDER + path for path in ("a/state.json", "b/data.arrow", "b/rows.csv")]
    assert select_data_files(FOLDER, uris)[0] == [uris[0], uris[2]]


def test_what_was_ignored_is_repeated_in_a_failure() -> None:
    notes = report_ignored_files("dataset.train.uri", FOLDER, [FOLDER + "rows.xlsx"])
    assert repeat_ignored_files(notes).startswith(
        " Note: dataset.train.uri: 1 object below s3://data/tickets/"
    )
    assert "rows.xlsx" in repeat_ignored_files(notes)
    assert repeat_ignored_files([]) == ""

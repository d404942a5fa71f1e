import pytest

from finetune_trainer.data.listing import data_files, names

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
    assert data_files(FOLDER, [uri]) == (([uri], []) if taken else ([], [uri]))


def test_only_what_lies_below_the_folder_counts() -> None:
    uri = "s3://data/_archive/.old/a.csv"
    assert data_files("s3://data/_archive/.old/", [uri]) == ([uri], [])


def test_the_order_stays_and_placeholders_of_folders_are_no_objects() -> None:
    uris = [FOLDER, *(FOLDER + path for path in ("b.csv", "README", "a/", "a.csv", "_SUCCESS"))]
    assert data_files(FOLDER, uris) == (
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
    assert names(uris) == called

"""PURE: selects the data files among the objects of a folder."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonpath

from finetune_trainer.contract import FailureClass
from finetune_trainer.data.findings import MAX_LISTED, Finding, SplitName
from finetune_trainer.data.parquet import PARQUET_NAMES
from finetune_trainer.data.readers import COMPRESSED_NAMES, CSV_NAMES, JSON_NAMES, uncompressed_name
from finetune_trainer.failures import StageFailure

MAX_OBJECTS = 10_000
"""Maximum number of objects below the folders of a split."""
_TEXT_NAMES = (*JSON_NAMES, *CSV_NAMES)
"""Endings of files that can be compressed as a whole; Parquet compresses its own pages."""
_MAX_SUMMARIZED = 5
_ARROW = ".arrow"
_DATASET_METADATA = ("state.json", "dataset_info.json", "dataset_dict.json")
"""Files that Dataset.save_to_disk and DatasetDict.save_to_disk write beside or above the Arrow files."""


def select_data_files(folder: str, uris: Iterable[str]) -> tuple[list[str], list[str]]:
    """Separates the data files of a folder from other objects.

    Other objects are names that begin with `_` or a dot (`_SUCCESS`, `.part-0.crc`, `_temporary/...`), names
    with another ending, and the JSON files of `Dataset.save_to_disk`. Folder placeholders are in neither
    list.

    Args:
        folder: URI of the folder, ends in a slash.
        uris: URIs of the objects below the folder.

    Returns:
        The URIs of data files and the URIs of other objects, both in the given order.
    """
    objects = [uri for uri in uris if not uri.endswith("/")]
    arrow = [uri for uri in objects if uri.endswith(_ARROW)]
    selected = [
        uri for uri in objects if _is_data(uri.removeprefix(folder)) and not _describes_arrow(uri, arrow)
    ]
    kept = set(selected)
    return selected, [uri for uri in objects if uri not in kept]


def shorten_uris(uris: Sequence[str]) -> tuple[str, ...]:
    """Returns the path of each file below the folder that all files share."""
    paths = [uri.removeprefix("s3://") for uri in uris]
    shared = commonpath([path.rpartition("/")[0] for path in paths]) + "/"
    return tuple(path.removeprefix(shared) for path in paths)


def check_distinct(found: Mapping[SplitName, Sequence[str]]) -> None:
    """Checks that no file is read twice.

    Args:
        found: URIs of the files of each split.

    Raises:
        StageFailure: FileTwice.
    """
    for uri, times in Counter(uri for uris in found.values() for uri in uris).items():
        if times > 1:
            splits = [f"dataset.{name}" for name, uris in found.items() if uri in uris]
            who = f"{' and '.join(splits)} both hold" if len(splits) > 1 else f"{splits[0]} holds twice"
            raise _config_failure(
                "FileTwice", f"{who} {uri}.", "Name every file once; a folder holds all below it."
            )


def too_many_files(field: str, folder: str) -> StageFailure:
    """Returns the failure of a split with too many objects."""
    return _config_failure(
        "TooManyFiles",
        f"{field}: with {folder} there are more than {MAX_OBJECTS:,} objects.",
        "Write fewer and larger files, or name some of the folders in it.",
    )


def no_files(field: str, folder: str, ignored: Sequence[str]) -> StageFailure:
    """Returns the failure of a folder without data files."""
    if any(_describes_arrow(uri, ignored) for uri in ignored):
        return _config_failure(
            "NoFiles",
            f"{field}: {folder} is a folder of datasets.save_to_disk, whose Arrow files are not read.",
            "Write Parquet or JSON Lines instead (Dataset.to_parquet, Dataset.to_json).",
        )
    among = f" among its {len(ignored):,} objects ({_summarize(folder, ignored)})" if ignored else ""
    return _config_failure(
        "NoFiles",
        f"{field}: there is no data file below {folder}{among}.",
        f"Name a folder with files that end in {', '.join((*_TEXT_NAMES, *PARQUET_NAMES))};"
        f" all but the last also with {' or '.join(COMPRESSED_NAMES)}.",
    )


def report_ignored_files(field: str, folder: str, ignored: Sequence[str]) -> list[Finding]:
    """Warns of the objects of a folder that are not data files."""
    if not ignored:
        return []
    objects = "1 object" if len(ignored) == 1 else f"{len(ignored):,} objects"
    are = "is no data file" if len(ignored) == 1 else "are no data files"
    return [
        Finding(
            level="warning",
            code="FilesIgnored",
            message=f"{field}: {objects} below {folder} {are}: {_summarize(folder, ignored)}.",
            file=folder,
            count=len(ignored),
            lines=tuple(uri.removeprefix(folder) for uri in ignored[:MAX_LISTED]),
        )
    ]


def repeat_ignored_files(findings: Iterable[Finding]) -> str:
    """Returns the messages about ignored objects as a sentence for a failure; empty without such objects."""
    messages = [finding.message for finding in findings if finding.code == "FilesIgnored"]
    return f" Note: {' '.join(messages)}" if messages else ""


def _summarize(folder: str, uris: Sequence[str]) -> str:
    more = ", ..." if len(uris) > _MAX_SUMMARIZED else ""
    return ", ".join(uri.removeprefix(folder) for uri in uris[:_MAX_SUMMARIZED]) + more


def _config_failure(reason: str, message: str, hint: str) -> StageFailure:
    return StageFailure(FailureClass.USER_CONFIG, reason, message, hint)


def _describes_arrow(uri: str, objects: Iterable[str]) -> bool:
    """Returns whether a file is metadata of Dataset.save_to_disk: an Arrow file is in or below its folder."""
    above, _, name = uri.rpartition("/")
    return name in _DATASET_METADATA and any(
        other.endswith(_ARROW) and other.startswith(above + "/") for other in objects
    )


def _is_data(path: str) -> bool:
    parts = path.split("/")
    if any(part.startswith(("_", ".")) for part in parts):
        return False
    name = parts[-1].lower()
    return name.endswith(PARQUET_NAMES) or uncompressed_name(name).endswith(_TEXT_NAMES)

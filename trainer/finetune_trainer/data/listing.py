"""PURE: selects the data files among the objects of a folder."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonpath

from finetune_trainer.contract import FailureClass
from finetune_trainer.data.findings import LISTED, Finding, SplitName
from finetune_trainer.data.parquet import PARQUET_NAMES
from finetune_trainer.data.readers import CSV_NAMES, JSON_NAMES, PACKED_NAMES, unpacked_name
from finetune_trainer.failures import StageFailure

MOST_OBJECTS = 10_000
"""Objects below the folders of a split."""
_TEXT_NAMES = (*JSON_NAMES, *CSV_NAMES)
"""These may be packed; Parquet packs its own content."""
_SHOWN = 5
_ARROW = ".arrow"
_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")
"""Files that Dataset.save_to_disk and DatasetDict.save_to_disk write beside or above the Arrow files."""


def data_files(folder: str, uris: Iterable[str]) -> tuple[list[str], list[str]]:
    """The objects that are data files, and the objects that are ignored, both in the order given.

    What a program leaves beside its data (`_SUCCESS`, `.part-0.crc`, `_temporary/...`) begins with `_` or a
    dot and is ignored, as is every name with another ending, and the JSON files that describe the Arrow
    files of `Dataset.save_to_disk`. A placeholder of a folder is neither.

    Args:
        folder: URI, ends in a slash.
        uris: of objects below it.
    """
    objects = [uri for uri in uris if not uri.endswith("/")]
    arrow = [uri for uri in objects if uri.endswith(_ARROW)]
    taken = [
        uri for uri in objects if _is_data(uri.removeprefix(folder)) and not _describes_arrow(uri, arrow)
    ]
    kept = set(taken)
    return taken, [uri for uri in objects if uri not in kept]


def names(uris: Sequence[str]) -> tuple[str, ...]:
    """The shortest paths that tell files apart: below the folder that all of them share."""
    paths = [uri.removeprefix("s3://") for uri in uris]
    shared = commonpath([path.rpartition("/")[0] for path in paths]) + "/"
    return tuple(path.removeprefix(shared) for path in paths)


def check_apart(found: Mapping[SplitName, Sequence[str]]) -> None:
    """No file is read twice, by one split or by two.

    Raises:
        StageFailure: FileTwice.
    """
    for uri, times in Counter(uri for uris in found.values() for uri in uris).items():
        if times > 1:
            splits = [f"dataset.{name}" for name, uris in found.items() if uri in uris]
            who = f"{' and '.join(splits)} both hold" if len(splits) > 1 else f"{splits[0]} holds twice"
            raise _refused("FileTwice", f"{who} {uri}.", "Name every file once; a folder holds all below it.")


def too_many_files(field: str, folder: str) -> StageFailure:
    """A folder with which a split has too many objects."""
    return _refused(
        "TooManyFiles",
        f"{field}: with {folder} there are more than {MOST_OBJECTS:,} objects.",
        "Write fewer and larger files, or name some of the folders in it.",
    )


def no_files(field: str, folder: str, ignored: Sequence[str]) -> StageFailure:
    """A folder without data files."""
    if any(_describes_arrow(uri, ignored) for uri in ignored):
        return _refused(
            "NoFiles",
            f"{field}: {folder} is a folder of datasets.save_to_disk, whose Arrow files are not read.",
            "Write Parquet or JSON Lines instead (Dataset.to_parquet, Dataset.to_json).",
        )
    among = f" among its {len(ignored):,} objects ({_shown(folder, ignored)})" if ignored else ""
    return _refused(
        "NoFiles",
        f"{field}: there is no data file below {folder}{among}.",
        f"Name a folder with files that end in {', '.join((*_TEXT_NAMES, *PARQUET_NAMES))};"
        f" all but the last also with {' or '.join(PACKED_NAMES)}.",
    )


def ignored_files(field: str, folder: str, ignored: Sequence[str]) -> list[Finding]:
    """Says what of a folder is not read."""
    if not ignored:
        return []
    return [
        Finding(
            level="warning",
            code="FilesIgnored",
            message=f"{field}: {len(ignored):,} objects below {folder} are no data files:"
            f" {_shown(folder, ignored)}.",
            file=folder,
            count=len(ignored),
            lines=tuple(uri.removeprefix(folder) for uri in ignored[:LISTED]),
        )
    ]


def also_ignored(findings: Iterable[Finding]) -> str:
    """Repeats for a failure which objects of the folders were ignored; empty if none were."""
    messages = [finding.message for finding in findings if finding.code == "FilesIgnored"]
    return f" Note: {' '.join(messages)}" if messages else ""


def _shown(folder: str, uris: Sequence[str]) -> str:
    more = ", ..." if len(uris) > _SHOWN else ""
    return ", ".join(uri.removeprefix(folder) for uri in uris[:_SHOWN]) + more


def _refused(reason: str, message: str, hint: str) -> StageFailure:
    return StageFailure(FailureClass.USER_CONFIG, reason, message, hint)


def _describes_arrow(uri: str, objects: Iterable[str]) -> bool:
    """Whether a file belongs to a folder of Dataset.save_to_disk: an Arrow file is beside or below it."""
    above, _, name = uri.rpartition("/")
    return name in _SAVED and any(
        other.endswith(_ARROW) and other.startswith(above + "/") for other in objects
    )


def _is_data(path: str) -> bool:
    parts = path.split("/")
    if any(part.startswith(("_", ".")) for part in parts):
        return False
    name = parts[-1].lower()
    return name.endswith(PARQUET_NAMES) or unpacked_name(name).endswith(_TEXT_NAMES)

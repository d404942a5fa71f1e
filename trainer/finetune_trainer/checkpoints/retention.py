"""PURE. Selects the checkpoints that are deleted."""

from collections.abc import Collection


def step_of(name: str) -> int:
    """The optimizer step of a checkpoint, from the name of its folder."""
    return int(name.partition("-")[0])


def attempt_of(name: str) -> int:
    """The attempt that saved a checkpoint, from the name of its folder."""
    return int(name.split("-")[1])


def newest_first(names: Collection[str]) -> list[str]:
    """Sorts names of checkpoints by step, then by attempt; the newest is first."""
    return sorted(names, key=_age, reverse=True)


def superseded(
    complete: Collection[str],
    incomplete: Collection[str],
    *,
    written: str,
    resumed: str | None,
    keep: int,
    best: str | None,
) -> set[str]:
    """Returns the names of the checkpoints that a gang deletes after it has saved a checkpoint.

    The lineage of the gang is its own checkpoints, and the checkpoints of earlier attempts up to the
    checkpoint from which the gang resumed. Later checkpoints of earlier attempts are deleted: the gang could
    not read them, or an earlier gang that still runs has saved them since. If a later attempt has begun to
    save checkpoints, the gang deletes nothing, because the later attempt needs checkpoints of its lineage.

    Args:
        complete: names of the checkpoints with a manifest.
        incomplete: names of the folders without a manifest; the gang itself is writing none of them.
        written: the checkpoint that the gang has saved last.
        resumed: the checkpoint from which the gang resumed; None if the gang started at the first step.
        keep: number of the newest checkpoints of the lineage that stay.
        best: the checkpoint with the best weights, which also stays.
    """
    attempt = attempt_of(written)
    found = {*complete, *incomplete}
    if any(attempt_of(name) > attempt for name in found):
        return set()
    own = {name for name in found if _gang_of(name) == _gang_of(written)}
    earlier = {name for name in found if attempt_of(name) < attempt}
    lineage = own | {name for name in earlier if resumed and _age(name) <= _age(resumed)}
    kept = newest_first(lineage & set(complete))[:keep]
    return (own | earlier) - {*kept, written, best}


def _age(name: str) -> tuple[int, int]:
    return step_of(name), attempt_of(name)


def _gang_of(name: str) -> str:
    """Attempt and pod of the gang that saved a checkpoint."""
    return name.partition("-")[2]

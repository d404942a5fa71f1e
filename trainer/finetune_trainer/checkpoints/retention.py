"""PURE. Selects the checkpoints that are deleted."""

from collections.abc import Callable, Collection


def step_of(name: str) -> int:
    """The optimizer step of a checkpoint, from the name of its folder."""
    return int(name.partition("-")[0])


def attempt_of(name: str) -> int:
    """The attempt that saved a checkpoint, from the name of its folder."""
    return int(name.split("-")[1])


def round_of(name: str) -> int:
    """The round of the attempt that saved a checkpoint, from the name of its folder.

    The name of a folder is `<step>-<attempt>-<pod>`, followed by a hyphen and the round after a restart in
    place.
    """
    _, _, _, *after = name.split("-")
    return int(after[0]) if len(after) == 1 and after[0].isdecimal() else 0


def newest_first(names: Collection[str]) -> list[str]:
    """Sorts names of checkpoints by step, then by attempt, then by round; the newest is first."""
    return sorted(names, key=_age, reverse=True)


def superseded(
    complete: Collection[str],
    incomplete: Collection[str],
    *,
    written: str,
    resumed: str | None,
    keep: int,
    best_of: Callable[[str], str | None],
) -> set[str]:
    """Returns the names of the checkpoints that a gang deletes after it has saved a checkpoint.

    The lineage of the gang is its own checkpoints, and the checkpoints of earlier attempts and rounds up to
    the checkpoint from which the gang resumed. Later checkpoints of earlier attempts and rounds are deleted:
    the gang could not read them, or an earlier gang that still runs has saved them since. If a later attempt
    or round has begun to save checkpoints, the gang deletes nothing, because it needs checkpoints of its
    lineage.

    Args:
        complete: names of the checkpoints with a manifest.
        incomplete: names of the folders without a manifest; the gang itself is writing none of them.
        written: the checkpoint that the gang has saved last.
        resumed: the checkpoint from which the gang resumed; None if the gang started at the first step.
        keep: number of the newest checkpoints of the lineage that stay.
        best_of: returns the name of the checkpoint with the best weights when the named checkpoint was saved;
            None if there were no best weights. The best checkpoint of each checkpoint that stays also stays:
            an attempt resumes only from a checkpoint whose best checkpoint exists.
    """
    found = {*complete, *incomplete}
    if any(_precedes(written, name) for name in found):
        return set()
    own = {name for name in found if _gang_of(name) == _gang_of(written)}
    earlier = {name for name in found if _precedes(name, written)}
    lineage = own | {name for name in earlier if resumed and _age(name) <= _age(resumed)}
    kept = newest_first(lineage & set(complete))[:keep]
    stay = {*kept, written}
    return (own | earlier) - stay - {best_of(name) for name in stay}


def _age(name: str) -> tuple[int, int, int]:
    return step_of(name), attempt_of(name), round_of(name)


def _precedes(one: str, other: str) -> bool:
    """Whether a checkpoint is of an earlier attempt, or of an earlier round of the same pod, than another."""
    if attempt_of(one) != attempt_of(other):
        return attempt_of(one) < attempt_of(other)
    return one.split("-")[2] == other.split("-")[2] and round_of(one) < round_of(other)


def _gang_of(name: str) -> str:
    """Attempt, pod and round of the gang that saved a checkpoint."""
    return name.partition("-")[2]

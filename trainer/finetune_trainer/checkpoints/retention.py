"""PURE. Selects the checkpoints that are deleted."""

from collections.abc import Collection


def step_of(name: str) -> int:
    """The optimizer step of a checkpoint, from the name of its folder."""
    return int(name.partition("-")[0])


def newest_first(names: Collection[str]) -> list[str]:
    """Sorts names of checkpoints by step, then by attempt; the newest is first."""
    return sorted(names, key=lambda name: (step_of(name), int(name.split("-")[1])), reverse=True)


def superseded(
    complete: Collection[str], incomplete: Collection[str], keep: int, best: str | None
) -> set[str]:
    """Returns the names of the checkpoints that are deleted.

    Args:
        complete: names of the checkpoints with a manifest.
        incomplete: names of the folders without a manifest, none of which is being written.
        keep: number of the newest checkpoints that stay.
        best: the checkpoint with the best weights, which also stays.
    """
    return (set(complete) | set(incomplete)) - set(newest_first(complete)[:keep]) - {best}

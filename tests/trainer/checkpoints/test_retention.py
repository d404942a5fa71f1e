from collections.abc import Collection, Mapping

from finetune_trainer.checkpoints.retention import newest_first, superseded

FIRST = ["00000010-1-aa", "00000020-1-aa", "00000030-1-aa"]
"""Checkpoints of the first attempt."""
DEAD = "00000040-1-aa"
"""A folder of the first attempt without a manifest."""
RESUMED = FIRST[1]
"""The second attempt resumed here, because the checkpoint of step 30 is damaged."""
OWN = ["00000025-2-bb", "00000035-2-bb"]


def deleted(
    complete: Collection[str],
    written: str,
    keep: int,
    incomplete: Collection[str] = (),
    *,
    resumed: str | None = RESUMED,
    bests: Mapping[str, str] | None = None,
) -> set[str]:
    """The deleted checkpoints; `bests` has the best checkpoint of some checkpoints."""
    best_of = (bests or {}).get
    return superseded(complete, incomplete, written=written, resumed=resumed, keep=keep, best_of=best_of)


def test_checkpoints_are_sorted_by_step_then_attempt() -> None:
    old, same, new, newest = "00000010-1-aa", "00000010-2-bb", "00000020-1-aa", "00000100-10-cc"
    assert newest_first([new, old, newest, same]) == [newest, new, same, old]
    assert newest_first(["00000100-9-a", "00000100-10-b"]) == ["00000100-10-b", "00000100-9-a"]


def test_the_newest_and_the_best_of_a_first_attempt_stay_and_incomplete_checkpoints_go() -> None:
    assert deleted(FIRST, FIRST[2], 2, [DEAD], resumed=None) == {FIRST[0], DEAD}
    assert deleted(FIRST, FIRST[2], 1, [DEAD], resumed=None, bests={FIRST[2]: FIRST[0]}) == {FIRST[1], DEAD}
    assert deleted(FIRST, FIRST[2], 9, resumed=None) == set()


def test_checkpoints_that_a_resumed_attempt_could_not_read_neither_stay_nor_count() -> None:
    found = [*FIRST, *OWN]
    assert deleted(found, OWN[1], 9, [DEAD]) == {FIRST[2], DEAD}
    assert deleted(found, OWN[1], 3) == {FIRST[0], FIRST[2]}
    assert deleted(found, OWN[1], 1, bests={OWN[1]: FIRST[0]}) == {FIRST[1], FIRST[2], OWN[0]}
    assert deleted([*FIRST, OWN[0]], OWN[0], 1) == set(FIRST), "the checkpoint of an earlier step stays"
    damaged = "00000020-2-bb"
    assert deleted([*FIRST, damaged, "00000025-3-cc"], "00000025-3-cc", 2) == {FIRST[0], FIRST[2], damaged}


def test_the_best_checkpoint_of_each_checkpoint_that_stays_also_stays() -> None:
    four = [*FIRST, "00000040-1-aa"]
    bests = {FIRST[0]: FIRST[0], FIRST[1]: FIRST[0], FIRST[2]: FIRST[0], four[3]: four[3]}
    assert deleted(four, four[3], 2, resumed=None, bests=bests) == {FIRST[1]}
    assert deleted(four, four[3], 1, resumed=None, bests=bests) == set(FIRST)


def test_an_attempt_that_started_at_the_first_step_deletes_the_checkpoints_of_earlier_attempts() -> None:
    assert deleted([*FIRST, "00000005-2-bb"], "00000005-2-bb", 2, resumed=None) == set(FIRST)


def test_the_checkpoint_that_was_just_saved_stays_at_the_step_of_the_resumed_checkpoint() -> None:
    again = "00000020-2-bb"
    assert deleted([*FIRST[:2], again], again, 1) == set(FIRST[:2])


def test_a_gang_deletes_nothing_when_a_later_attempt_has_saved_checkpoints() -> None:
    assert deleted([*FIRST, OWN[0]], FIRST[2], 1, resumed=None) == set()
    assert deleted(FIRST, FIRST[2], 1, [DEAD, OWN[0]], resumed=None) == set()


def test_a_gang_deletes_no_checkpoint_of_another_gang_of_its_attempt() -> None:
    other = ["00000010-2-cc", "00000020-2-cc"]
    assert deleted([other[0], *OWN], OWN[1], 1, [other[1], "00000005-2-bb"]) == {OWN[0], "00000005-2-bb"}


def test_rounds_of_an_attempt_count_like_attempts() -> None:
    first, second = ["00000010-2-bb", "00000020-2-bb", "00000030-2-bb"], "00000025-2-bb-1"
    dead = "00000026-2-bb"
    assert newest_first(["00000020-2-bb-2", "00000020-2-bb-10", first[1]]) == [
        "00000020-2-bb-10",
        "00000020-2-bb-2",
        first[1],
    ]
    found = [*FIRST, *first, second]
    assert deleted(found, second, 2, [dead], resumed=first[1]) == {*FIRST, first[0], first[2], dead}
    assert deleted(found, first[2], 1, [dead]) == set(), "a later round has saved checkpoints"
    third = "00000027-3-cc"
    assert deleted([*first, second, third], third, 2, [dead], resumed=second) == {*first, dead}

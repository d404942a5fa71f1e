from finetune_trainer.checkpoints.retention import newest_first, superseded

OLD, SAME, NEW, NEWEST = "00000010-1-aa", "00000010-2-bb", "00000020-1-aa", "00000100-10-cc"
ALL = [NEW, OLD, NEWEST, SAME]


def test_checkpoints_are_sorted_by_step_then_attempt() -> None:
    assert newest_first(ALL) == [NEWEST, NEW, SAME, OLD]
    assert newest_first(["00000100-9-a", "00000100-10-b"]) == ["00000100-10-b", "00000100-9-a"]


def test_the_newest_and_the_best_stay_and_incomplete_checkpoints_go() -> None:
    assert superseded(ALL, ["00000300-1-dd"], 2, OLD) == {SAME, "00000300-1-dd"}
    assert superseded(ALL, [], 1, None) == {OLD, SAME, NEW}
    assert superseded(ALL, [], 1, NEWEST) == {OLD, SAME, NEW}
    assert superseded(ALL, [], 9, None) == set()

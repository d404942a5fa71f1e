from finetune_trainer.report.markdown import cell, listed


def test_names_from_outside_cannot_write_markup_into_the_card() -> None:
    assert cell("a|b\n<script>`[x](y)`") == "a\\|b \\<script\\>\\`\\[x\\](y)\\`"


def test_a_long_list_says_how_many_more_there_are() -> None:
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert listed(["a", "c"]) == "a, c"

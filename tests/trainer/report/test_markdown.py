from finetune_trainer.report.markdown import code_span, convert_prose, escape, join_texts


def test_names_from_outside_cannot_write_markup_into_the_card() -> None:
    assert escape("a|b\n<script>`[x](y)`") == "a\\|b \\<script\\>\\`\\[x\\](y)\\`"


def test_a_long_list_says_how_many_more_there_are() -> None:
    assert join_texts(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert join_texts(["a", "c"]) == "a, c"


def test_a_code_span_shows_a_name_as_it_is_and_does_not_end_inside_the_name() -> None:
    assert code_span("s3://my_models/v1") == "`s3://my_models/v1`"
    assert code_span("a`b``c|\n") == "``` a`b``c\\|  ```"


def test_names_in_the_trainers_own_words_become_code_spans() -> None:
    assert convert_prose("see `report.json`, not <b>") == "see `report.json`, not \\<b\\>"

from collections.abc import Callable

from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.training import section
from tests.trainer.report.reading import read, shown, texts


def test_all_curves_are_drawn_and_the_kept_epoch_is_named(record_of: Callable[..., TrainingRecord]) -> None:
    markup = shown(section(record_of(["a", "b"])))
    assert texts(markup, "figcaption") == [
        "Training loss",
        "Macro F1 on validation rows",
        "Gradient norm before clipping",
        "Learning rate",
        "Rows per second",
    ]
    assert texts(markup, "p")[0].startswith("Training kept the weights of step 600: macro F1 0.8000")
    assert [row for row in texts(markup, "tr") if "kept" in row] == ["26001.00000.8000kept"]


def test_a_curve_is_told_to_those_who_do_not_see_it(record_of: Callable[..., TrainingRecord]) -> None:
    told = [e.attributes.get("aria-label") for e in read(shown(section(record_of(["a", "b"]))))]
    assert "Learning rate: 1.7e\N{MINUS SIGN}5 at step 5" in " ".join(filter(None, told))


def test_a_record_of_an_earlier_release_has_only_its_epochs(record_of: Callable[..., TrainingRecord]) -> None:
    old = record_of(["a", "b"]).model_copy(update={"curve": ()})
    assert texts(shown(section(old)), "figcaption") == ["Macro F1 on validation rows"]

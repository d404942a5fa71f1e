from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.tasks.text_generation.report import sections
from tests.trainer.report.conftest import generator as generators
from tests.trainer.report.conftest import record_of as records
from tests.trainer.report.reading import shown, texts

generator, record_of = generators, records


def test_each_prompt_stands_with_what_was_expected_and_what_both_models_write(
    generator: TrainingRecord,
) -> None:
    (section,) = sections(generator)
    markup = shown(section)
    assert texts(markup, "dd") == [
        "a tool",
        "x x x",
        "a tool",
        "an answer",
        "nothing",
        "<script>alert(1)</script>",
    ]
    first, second = texts(markup, "article")
    assert first.startswith("\u2026x")
    assert "Summary" not in first, "of a long prompt its end is shown"
    assert second.startswith("Q:")
    assert second.endswith("line 1,008 of <i>.csv")


def test_a_record_without_a_part_of_the_task_has_no_section(generator: TrainingRecord) -> None:
    assert sections(generator.model_copy(update={"task": {}})) == ()

from collections.abc import Callable

from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.tasks.text_classification.record import ClassificationFacts
from finetune_trainer.tasks.text_classification.report import sections
from tests.trainer.report import reading
from tests.trainer.report.conftest import record_of as records
from tests.trainer.report.reading import read, texts

record_of = records
Records = Callable[..., TrainingRecord]


def shown(record: TrainingRecord) -> dict[str, str]:
    return {section.anchor: reading.shown(section) for section in sections(record)}


def test_classes_stand_with_their_test_rows_and_their_change(record_of: Records) -> None:
    record = record_of(["a", "b", "c"])
    facts = ClassificationFacts.model_validate(record.task)
    rows = texts(shown(record)["classes"], "tr")[1:]
    largest = max(facts.classes["tuned"], key=lambda row: row.support)
    assert rows[0].startswith(f"{largest.label}{largest.support}{largest.precision:.3f}{largest.recall:.3f}")
    assert len(rows) == 3


def test_of_many_classes_the_largest_are_shown(record_of: Records) -> None:
    parts = shown(record_of([f"class {number}" for number in range(70)], rows=3000))
    assert len(texts(parts["classes"], "tr")) == 1 + 50
    assert "report.json has the other 20 classes." in parts["classes"]
    assert "the 30 classes with most test rows, of 70" in parts["confusions"]


def test_the_matrix_holds_every_test_row_of_the_classes_shown(record_of: Records) -> None:
    record = record_of([f"class {number}" for number in range(70)], rows=3000)
    facts = ClassificationFacts.model_validate(record.task)
    markup = shown(record)["confusions"]
    cells = [e for e in read(markup) if e.name == "td" and re_shade(e.attributes.get("class"))]
    supports = sorted((sum(row) for row in facts.confusion["tuned"]), reverse=True)
    assert sum(int(cell.text.replace(",", "")) for cell in cells) == sum(supports[:30])


def re_shade(name: str | None) -> bool:
    return bool(name) and name[0] in "re" and name[1:].isdigit()


def test_what_is_never_mixed_up_is_told_as_that(record_of: Records) -> None:
    parts = shown(record_of(["a", "b"], right=100))
    assert "mixes up no classes" in parts["confusions"]


def test_examples_stand_by_kind_with_what_each_model_says(record_of: Records) -> None:
    record = record_of(["a", "b", "c"])
    facts = ClassificationFacts.model_validate(record.task)
    markup = shown(record)["examples"]
    assert texts(markup, "h3") == ["Fixed", "Broken", "Still wrong"]
    assert len(texts(markup, "article")) == len(facts.examples)
    first = facts.examples[0]
    assert texts(markup, "dd")[:3] == [first.label, first.probe, f"{first.tuned} {first.probability:.0%}"]


def test_a_record_without_examples_or_without_a_part_of_the_task_shows_the_rest(record_of: Records) -> None:
    record = record_of(["a", "b"])
    assert list(shown(record.model_copy(update={"task": {**record.task, "examples": []}}))) == [
        "classes",
        "confusions",
    ]
    assert sections(record.model_copy(update={"task": {}})) == ()

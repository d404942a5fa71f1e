"""The model card as a whole: its code stands as written, and no name from outside becomes markup."""

import dataclasses
import re
from collections.abc import Callable

import pytest

from finetune_trainer.config import Lora
from finetune_trainer.models.method_facts import MethodFacts
from finetune_trainer.report import model_card
from finetune_trainer.report.page import Sources
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.tasks.registry import report_of
from tests.trainer.report.reading import LIMITS_OF_METHODS

Records = Callable[..., TrainingRecord]
Runs = Callable[..., Sources]
HOSTILE = ("<script>alert(1)</script>", "a|b`c", "{{ 7 * 7 }} {% raw %}", "nul \x00 and half \ud83d", "\n# x")


def rendered(of: Sources) -> str:
    return model_card.render(of.config, of.chosen, of.staged, of.record, report_of(of.config.run.task))


def test_the_card_of_each_task_has_its_section_and_code_that_python_reads(
    record_of: Records, generator: TrainingRecord, sources_of: Runs
) -> None:
    for record, section in ((record_of(["a", "b"]), "## Classes"), (generator, "## Before and after")):
        card = rendered(sources_of(record))
        headings = re.findall(r"^#.*$", card, flags=re.MULTILINE)
        assert headings == [
            "# tickets-v1",
            "## Results",
            section,
            "## How it was made",
            "## Use",
            "## Limits and licence",
        ]
        (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        compile(code, "card", "exec")


def test_the_card_of_an_adapter_loads_the_base_model(record_of: Records, sources_of: Runs) -> None:
    of = sources_of(record_of(["a", "b"]))
    run = of.config.run.model_copy(update={"method": Lora(merge=False)})
    card = rendered(dataclasses.replace(of, config=of.config.model_copy(update={"run": run})))
    assert "library_name: peft" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "AutoModelForSequenceClassification.from_pretrained(" in code
    compile(code, "card", "exec")


def test_every_row_of_a_table_has_as_many_cells_as_its_head(record_of: Records, sources_of: Runs) -> None:
    card = rendered(sources_of(record_of(["a|b", "c"])))
    tables = re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        rows = table.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, rows


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_name_is_text_wherever_it_stands(
    hostile: str, record_of: Records, sources_of: Runs
) -> None:
    record = record_of([hostile, "other"], text=hostile).model_copy(update={"devices": hostile})
    card = rendered(sources_of(record, name=hostile))
    card.encode()
    assert not re.search(r"(?<!\\)<", re.sub(r"(`+) ?.*?[^`]\1(?!`)", "", card))
    assert "\n# x" not in card
    assert card.count("\n# ") == 1


def test_the_same_documents_give_the_same_bytes(record_of: Records, sources_of: Runs) -> None:
    assert rendered(sources_of(record_of(["a", "b"]))) == rendered(sources_of(record_of(["a", "b"])))


@pytest.mark.parametrize(
    ("needed", "says", "not_said"),
    [
        (True, "This model needs transformers 5 or newer", "transformers 4"),
        (False, "config.json also has the keys that transformers 4 reads", "needs transformers"),
    ],
)
def test_the_card_says_which_versions_of_transformers_read_the_model(
    record_of: Records, sources_of: Runs, needed: bool, says: str, not_said: str
) -> None:
    card = rendered(sources_of(record_of(["a", "b"]).model_copy(update={"needs_transformers_5": needed})))
    assert says in card
    assert not_said not in card


@pytest.mark.parametrize(("facts", "limit"), LIMITS_OF_METHODS)
def test_the_card_says_what_the_method_leaves_unchanged(
    record_of: Records, sources_of: Runs, facts: MethodFacts, limit: str
) -> None:
    record = record_of(["a", "b"])
    card = rendered(sources_of(record.model_copy(update={"method": facts})))
    (line,) = [line for line in card.partition("## Limits")[2].splitlines() if limit in line]
    assert line.startswith("* ")
    assert limit not in rendered(sources_of(record))

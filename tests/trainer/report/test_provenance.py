from collections.abc import Callable
from dataclasses import replace

from finetune_trainer.config import ParentJob
from finetune_trainer.report import model_card, provenance
from finetune_trainer.report.page import Sources
from finetune_trainer.report.record import HeadInit, TrainingRecord
from finetune_trainer.s3.manifest import Ancestor
from finetune_trainer.tasks.text_classification import report
from tests.trainer.report import reading
from tests.trainer.report.reading import texts

DIGEST = "sha256:" + "ab" * 32


def shown(of: Sources) -> str:
    known = provenance.list_facts(of.config, of.chosen, of.staged, of.record)
    return reading.shown(provenance.section(known, of.config, of.staged, of.trained))


def test_the_card_and_the_report_tell_the_same(
    record_of: Callable[..., TrainingRecord], sources_of: Callable[..., Sources]
) -> None:
    of = sources_of(record_of(["a", "b"]))
    card = model_card.render(of.config, of.chosen, of.staged, of.record, report)
    rows = texts(shown(of), "tr")
    for fact in provenance.list_facts(of.config, of.chosen, of.staged, of.record):
        assert fact.what + fact.value in rows
        assert f"| {fact.what} |" in card
    assert "GPU time2 h 44 min" in rows
    assert "peak memory of a process12.3 GB" in rows


def test_card_and_report_name_the_step_that_changed_no_weights(
    record_of: Callable[..., TrainingRecord], sources_of: Callable[..., Sources]
) -> None:
    text = "step 40: its loss or gradient was not finite, so its rows changed no weights"
    of = sources_of(record_of(["a", "b"]))
    assert "skipped" not in shown(of)
    of = replace(of, record=of.record.model_copy(update={"skipped_step": 40}))
    assert f"skipped{text}" in texts(shown(of), "tr")
    assert f"| skipped | {text} |" in model_card.render(of.config, of.chosen, of.staged, of.record, report)


def test_card_and_report_say_that_training_ended_early(
    record_of: Callable[..., TrainingRecord], sources_of: Callable[..., Sources]
) -> None:
    of = sources_of(record_of(["a", "b"]))
    assert "ended early" not in shown(of)
    of = replace(of, record=of.record.model_copy(update={"ended_early": 40}))
    assert f"({of.chosen.total_steps} steps), ended early at step 40, kept: step" in shown(of)


def test_what_it_descends_from_is_told_where_another_job_published_the_base(
    record_of: Callable[..., TrainingRecord], sources_of: Callable[..., Sources]
) -> None:
    of = sources_of(record_of(["a", "b"]))
    assert "Lineage" not in shown(of)
    parent = ParentJob(namespace="support", name="tickets-v0", uid="77", manifest=DIGEST)
    first = Ancestor(uri="s3://models/minilm", digest=DIGEST)
    base = Ancestor(uri="s3://v0", digest=DIGEST, published_by=parent)
    descended = of.staged.model_copy(update={"lineage": (first, base)})
    assert provenance.list_ancestors(descended)[0] == ("s3://models/minilm", DIGEST, "")
    known = provenance.list_facts(of.config, of.chosen, descended, of.record)
    markup = reading.shown(provenance.section(known, of.config, descended, of.trained))
    assert f"s3://v0{DIGEST}FineTuneJob support/tickets-v0 (uid 77, manifest {DIGEST})" in texts(markup, "tr")
    card = model_card.render(of.config, of.chosen, descended, of.record, report)
    assert "FineTuneJob support/tickets-v0" in card


def test_the_start_of_the_head_and_the_class_weights_are_told(
    record_of: Callable[..., TrainingRecord], sources_of: Callable[..., Sources]
) -> None:
    of = sources_of(record_of(["a", "b"]))
    assert "the head started fromrandom weights" in texts(shown(of), "tr")
    assert "weight of a class" not in shown(of)
    kept = replace(of, record=of.record.model_copy(update={"head_kept": True}))
    assert "the head started fromthe base model's head" in texts(shown(kept), "tr")
    training = of.config.run.training.model_copy(update={"class_weights": "SquareRoot"})
    run = of.config.run.model_copy(update={"training": training})
    probe = HeadInit(strength=0.1, validation=0.73125, rows=20_000)
    other = replace(
        of,
        config=of.config.model_copy(update={"run": run}),
        record=of.record.model_copy(update={"head_init": probe}),
    )
    rows = texts(shown(other), "tr")
    assert (
        "the head started froma linear probe of 20,000 training rows (C = 0.1, macro F1 0.7312 on the "
        "validation rows)"
    ) in rows
    assert any(row.startswith("weight of a class in the lossthe square root of: ") for row in rows)
    card = model_card.render(other.config, of.chosen, of.staged, other.record, report)
    assert "a linear probe of 20,000 training rows (C = 0.1" in card


def test_a_generator_has_no_new_head(generator: TrainingRecord, sources_of: Callable[..., Sources]) -> None:
    of = sources_of(generator)
    run = of.config.run.model_copy(update={"task": "TextGeneration"})
    config = of.config.model_copy(update={"run": run})
    assert not any(
        "head" in fact.what for fact in provenance.list_facts(config, of.chosen, of.staged, of.record)
    )

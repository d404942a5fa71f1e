"""The model card, README.md. Pure: documents in, Markdown out; no clock: a re-run writes the same bytes."""

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import TITLES, Chosen, baseline_name, describe
from finetune_trainer.report import method, provenance, scores
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import card
from finetune_trainer.report.task_report import TaskReport, all_limits
from finetune_trainer.s3.manifest import Manifest


def render(
    config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord, task: TaskReport
) -> str:
    """The whole card.

    Args:
        config: the trainer's input.
        chosen: what Prepare decided.
        staged: the manifest of the verified model, which names the origins of the model.
        record: the results of training.
        task: the texts and the template of the task.
    """
    evaluation = record.evaluation
    values = {
        "adapter": method.needs_base(config.run.method),
        "ancestor_columns": provenance.ANCESTORS,
        "ancestors": provenance.ancestors(staged),
        "auto": task.AUTO,
        "baseline": baseline_name(evaluation),
        "base": config.run.model.uri,
        "ended": staged.created,
        "explained": task.results(record),
        "facts": provenance.facts(config, chosen, staged, record),
        "history": record.history,
        "job": config.job,
        "kind": task.kind(record),
        "limits": all_limits(task, record),
        "metric_names": sorted(evaluation.baseline.metrics),
        "metrics": scores.metric_rows(evaluation),
        "models": scores.scored_models(evaluation),
        "pipeline": task.PIPELINE,
        "primary": TITLES[evaluation.primary_metric],
        "rows": evaluation.rows,
        "sentence": describe(evaluation),
        "needs_transformers_5": record.needs_transformers_5,
        "transformers": record.versions["transformers"],
        "tuned_how": method.tuned_how(config.run.method),
    }
    return card().get_template(task.CARD).render({**values, **task.card(record)})

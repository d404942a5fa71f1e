"""PURE: renders the model card, README.md. A repeated run renders the same bytes."""

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import TITLES, Chosen, baseline_name, describe
from finetune_trainer.report import method, provenance, scores, serving
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import card
from finetune_trainer.report.task_report import TaskReport, list_all_limits
from finetune_trainer.s3.manifest import Manifest


def render(
    config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord, task: TaskReport
) -> str:
    """Renders the model card.

    Args:
        config: the configuration of the trainer.
        chosen: the hyperparameters that Prepare selected.
        staged: the manifest of the verified model.
        record: the training record.
        task: the texts and the template of the task.
    """
    evaluation = record.evaluation
    values = {
        "adapter": method.needs_base(config.run.method),
        "ancestor_columns": provenance.ANCESTORS,
        "ancestors": provenance.list_ancestors(staged),
        "auto": task.AUTO_CLASS,
        "baseline": baseline_name(evaluation),
        "base": config.run.model.uri,
        "ended": staged.created,
        "explained": task.results(record),
        "facts": provenance.list_facts(config, chosen, staged, record),
        "history": record.history,
        "job": config.job,
        "kind": task.kind(record),
        "limits": list_all_limits(task, record),
        "metric_names": sorted(evaluation.baseline.metrics),
        "metrics": scores.build_metric_rows(evaluation),
        "models": scores.list_scored_models(evaluation),
        "pipeline": task.PIPELINE,
        "primary": TITLES[evaluation.primary_metric],
        "rows": evaluation.rows,
        "sentence": describe(evaluation),
        "needs_transformers_5": record.needs_transformers_5,
        "transformers": record.versions["transformers"],
        "served_base_name": config.run.served_base_name,
        "serving_titles": serving.TITLES,
        "serving": [f"{serving.FOLDER}/{name}" for name in serving.list_names(config, task)],
        "unloadable": serving.list_reasons(config),
        "tuned_how": method.describe_method(config.run.method),
    }
    return card().get_template(task.CARD).render({**values, **task.card(record)})

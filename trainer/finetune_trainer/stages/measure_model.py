"""Measures a model for the memory estimate with the forward pass of its task; imports torch when called."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from finetune_trainer.config import ComputeType, Method
from finetune_trainer.contract import Task
from finetune_trainer.data.shards import Split
from finetune_trainer.models.memory import ModelFacts
from finetune_trainer.tasks.registry import model_of, report_of


def measure_model(folder: Path, task: Task, method: Method, weights: ComputeType, length: int) -> ModelFacts:
    """Measures a model on the meta device, from config.json alone.

    Args:
        folder: folder with config.json.
        task: task of the job.
        method: training method of the job.
        weights: data type of the weights in memory.
        length: tokens of a row, at least 2.

    Raises:
        StageFailure: UserConfig: ModelUnsupported, TargetModulesUnknown, TooManyLayers.
    """
    from finetune_trainer.models import model_size  # noqa: PLC0415 - torch, 5 s
    from finetune_trainer.models.load import silence_libraries  # noqa: PLC0415
    from finetune_trainer.models.weights import torch_dtype  # noqa: PLC0415

    silence_libraries()
    warnings.simplefilter("ignore", FutureWarning)
    return model_size.find_facts(
        folder,
        report_of(task).AUTO_CLASS,
        model_of(task).head,
        method,
        torch_dtype(weights),
        partial(run_forward, task),
        length,
    )


def run_forward(task: Task, network: Any, rows: Split) -> Any:
    """Runs the forward pass of a training step on one micro-batch of padded rows.

    Args:
        task: the task.
        network: the model, on any device.
        rows: the rows of the micro-batch.
    """
    model = model_of(task)
    batch = model.collate(rows, range(len(rows)), 0, None)
    inputs = {name: tensor for name, tensor in batch.items() if name not in {"labels", "row_index"}}
    device = next(network.parameters()).device
    return network(**{name: tensor.to(device) for name, tensor in inputs.items()}, **model.FORWARD)

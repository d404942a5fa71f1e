"""PURE: renders the files in `serving/`, with which servers serve the published model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.config import Lora, TrainConfig
from finetune_trainer.contract import Chosen, Digest
from finetune_trainer.models.adapter_limits import VLLM_RANKS, list_unloadable
from finetune_trainer.models.adapter_size import find_max_rank
from finetune_trainer.report import method
from finetune_trainer.report.rendering import TEMPLATES, plain
from finetune_trainer.report.task_report import TaskReport

FOLDER = "serving"
TITLES = {
    "inference-service.yaml": "an InferenceService of KServe",
    "llm-inference-service.yaml": "an LLMInferenceService of KServe",
    "vllm.sh": "the command of vLLM",
    "Modelfile": "for Ollama",
}
"""Descriptions of the files."""
_GIB = 1024**3
_LIBRARIES_GIB = 2
"""Memory of a server process without the model."""


@dataclass(frozen=True)
class ServedModel:
    """Properties of the published files."""

    digest: Digest
    """Digest of the files of the model, see `base_model.digest_of_files`."""
    base_digest: Digest
    """Digest of the base model."""
    weight_bytes: int
    """Size of the weights."""
    stops: Sequence[str] = ()
    """Texts of the tokens that end a text of a language model."""


def list_names(config: TrainConfig, task: TaskReport) -> tuple[str, ...]:
    """Returns the names of the files; empty if no server of the task can serve the published files.

    Args:
        config: the configuration of the trainer.
        task: the texts of the task.
    """
    files = task.serving(adapter=method.needs_base(config.run.method))
    return () if list_reasons(config) else tuple(files)


def list_reasons(config: TrainConfig) -> list[str]:
    """Returns the properties of a published adapter because of which servers do not load the adapter."""
    lora = config.run.method
    return list(list_unloadable(lora)) if isinstance(lora, Lora) and not lora.merge else []


def render(config: TrainConfig, chosen: Chosen, model: ServedModel, task: TaskReport) -> Mapping[str, str]:
    """Renders the files, by name.

    Args:
        config: the configuration of the trainer.
        chosen: the hyperparameters that Prepare selected.
        model: properties of the published files.
        task: the texts of the task.
    """
    run, adapter = config.run, method.needs_base(config.run.method)
    # The kernels of vLLM for adapters have no float32.
    dtype = "bfloat16" if adapter and chosen.model_dtype == "float32" else chosen.model_dtype
    values = {
        "adapter": adapter,
        "base_digest": model.base_digest,
        "base_name": run.served_base_name,
        "base_uri": run.model.uri,
        "digest": model.digest,
        "dtype": dtype,
        "max_rank": _find_max_rank(config),
        # While the model loads, a server holds the weights twice.
        "memory": f"{_LIBRARIES_GIB + -(-2 * model.weight_bytes // _GIB)}Gi",
        "name": config.job.name,
        "stops": model.stops,
        "uri": run.output,
    }
    return {
        name: plain().get_template(f"{TEMPLATES}/serving/{name}.j2").render(values)
        for name in list_names(config, task)
    }


def _find_max_rank(config: TrainConfig) -> int | None:
    """Returns the smallest sufficient rank of VLLM_RANKS; None without an adapter or such a rank."""
    if not isinstance(config.run.method, Lora):
        return None
    needed = find_max_rank(config.run.method)
    return next((rank for rank in VLLM_RANKS if rank >= needed), None)

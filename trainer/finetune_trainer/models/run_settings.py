"""PURE: selects the settings of a run: the `Auto` values by rule, changed so that the job fits in memory."""

import math
from dataclasses import dataclass, replace

from finetune_trainer.config import ComputeType, Lora, MemoryLimits, Run
from finetune_trainer.contract import Chosen, FailureClass, MemoryEstimate
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import plan
from finetune_trainer.models.disk import estimate_scratch
from finetune_trainer.models.memory import Choices, ModelFacts
from finetune_trainer.models.memory_fit import (
    EVERYTHING,
    Capacity,
    Fit,
    Free,
    estimate,
    find_world,
    select_settings,
)
from finetune_trainer.models.memory_text import describe_difference, gib

_PARTS = {"weights": "weights", "gradients": "gradients", "optimizer": "optimizer state"}


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run."""

    chosen: Chosen
    memory: MemoryEstimate | None = None
    """None if the memory of the model is unknown."""
    excess: str = ""
    """A sentence if the estimate exceeds the available memory; else empty."""


def choose_settings(
    run: Run,
    limits: MemoryLimits,
    rows: int,
    typical_length: int,
    base: plan.BaseFacts,
    auto: plan.AutoLimits,
    facts: ModelFacts | None,
    *,
    min_nodes: int | None = None,
) -> RunSettings:
    """Selects all settings of a run.

    With fewer pods, a process has a larger share of the state that ZeRO divides, and more rows of a batch.
    The settings fit with the smallest number of pods. The estimate is the greatest of all numbers of pods.

    Args:
        run: the config of the run.
        limits: the available memory.
        rows: number of training rows.
        typical_length: typical length of the training rows in tokens, see `plan.typical_length`.
        base: properties of the base model.
        auto: limits of the task for `Auto` values.
        facts: the sizes of the model; None if they are unknown.
        min_nodes: the smallest number of pods of an attempt of Train; None: the number of pods of the run.

    Raises:
        StageFailure: the reasons of `plan.choose`, and DoesNotFit.
    """
    chosen = plan.choose(run, rows, typical_length, base, auto)
    if facts is None:
        return RunSettings(chosen)
    capacity = _find_capacity(run, limits)
    nodes = run.world.nodes if min_nodes is None else min_nodes
    smallest = chosen.model_copy(update={"world_size": nodes * run.world.processes_per_node})
    fit = select_settings(facts, _choices_of(run, smallest), free_settings(run), capacity)
    if capacity.device is not None and fit.device.persistent > capacity.device:
        raise _refuse_training(run, facts, fit, capacity, capacity.device)
    if capacity.device is not None and facts.quantized and fit.device.evaluation > capacity.device:
        raise _refuse_measuring(run, facts, fit, capacity, capacity.device)
    chosen = _apply(chosen, fit.choices, _count_rows(smallest))
    fits = [fit, *_estimate_larger(run, facts, fit, capacity, nodes)]
    process, train = max(each.device.total for each in fits), max(each.host.train for each in fits)
    exceeding = next((each for each in fits if not each.fits), None)
    publish = fit.host.merge if isinstance(run.method, Lora) and run.method.merge else fit.host.publish
    scratch = estimate_scratch(facts, run.method, chosen.model_dtype)
    memory = MemoryEstimate(process=process, train=train, publish=publish, scratch=scratch)
    return RunSettings(chosen, memory, _describe_excess(exceeding, capacity) if exceeding else "")


def free_settings(run: Run) -> Free:
    """Returns the settings that the job leaves to Prepare."""
    return Free(
        zero_stage=run.zero_stage == "Auto",
        # Without GPUs, there is no other memory to which DeepSpeed could move state.
        offload=run.offload == "Auto" and run.world.gpus_per_node > 0,
        checkpointing=run.training.activation_checkpointing == "Auto",
        rows=run.training.micro_batch_size == "Auto",
    )


def products_of(run: Run) -> ComputeType:
    """Returns the data type of matrix products, for GPUs that support bfloat16."""
    precision = run.training.precision
    bfloat16 = precision == "BFloat16" or (precision == "Auto" and run.world.gpus_per_node > 0)
    return "bfloat16" if bfloat16 else "float32"


def _choices_of(run: Run, chosen: Chosen) -> Choices:
    return Choices(
        zero_stage=chosen.zero_stage,
        offload=chosen.offload,
        world=chosen.world_size,
        processes_per_node=run.world.processes_per_node,
        model_dtype=chosen.model_dtype,
        products=products_of(run),
        rows=_count_rows(chosen),
        length=chosen.max_length,
        checkpointing=chosen.activation_checkpointing,
        live=chosen.gathered_parameters,
        gpus=run.world.gpus_per_node > 0,
    )


def _estimate_larger(run: Run, facts: ModelFacts, fit: Fit, capacity: Capacity, nodes: int) -> list[Fit]:
    """The estimates for all larger numbers of pods: some buffers exist only with several processes."""
    processes = run.world.processes_per_node
    return [
        estimate(facts, replace(fit.choices, world=larger * processes), capacity)
        for larger in range(nodes + 1, run.world.nodes + 1)
    ]


def _find_capacity(run: Run, limits: MemoryLimits) -> Capacity:
    if run.world.gpus_per_node > 0:
        return Capacity(limits.gpu, limits.train)
    return Capacity(limits.train and limits.train // run.world.processes_per_node)


def _count_rows(chosen: Chosen) -> int:
    """Returns the number of rows of maxLength in a micro-batch."""
    share = math.ceil(chosen.batch_size / chosen.world_size)
    tokens = chosen.micro_batch_tokens or 0
    return chosen.micro_batch_size or min(share, math.ceil(tokens / chosen.max_length))


def _apply(chosen: Chosen, choices: Choices, wanted_rows: int) -> Chosen:
    update: dict[str, object] = {
        "zero_stage": choices.zero_stage,
        "offload": choices.offload,
        "activation_checkpointing": choices.checkpointing,
        "gathered_parameters": choices.live,
    }
    if choices.rows < wanted_rows:
        update["micro_batch_tokens"] = choices.rows * choices.length
    return chosen.model_copy(update=update)


def _refuse_training(run: Run, facts: ModelFacts, fit: Fit, capacity: Capacity, memory: int) -> StageFailure:
    sizes = {name: getattr(fit.device, part) for part, name in _PARTS.items()}
    parts = ", ".join(f"{name} {gib(size)}" for name, size in sizes.items() if size)
    need = (
        f"Training needs more memory than {_owner(fit)} has: {gib(fit.device.persistent)} GiB ({parts}) and"
        f" memory for activations, of {gib(memory)} GiB"
    )
    return _does_not_fit(need, run, facts, fit, capacity)


def _refuse_measuring(run: Run, facts: ModelFacts, fit: Fit, capacity: Capacity, memory: int) -> StageFailure:
    need = (
        "Base model and tuned model are measured without quantization, which needs"
        f" {gib(fit.device.evaluation)} GiB, and {_owner(fit)} has {gib(memory)} GiB"
    )
    return _does_not_fit(need, run, facts, fit, capacity)


def _does_not_fit(need: str, run: Run, facts: ModelFacts, fit: Fit, capacity: Capacity) -> StageFailure:
    """Returns the failure of a job that needs too much memory; `need` is the beginning of the message."""
    choices = fit.choices
    return StageFailure(
        FailureClass.USER_CONFIG,
        "DoesNotFit",
        f"{need}, with deepspeed.zeroStage {choices.zero_stage} and {choices.world} processes.",
        _advise(run, facts, fit, capacity),
    )


def _owner(fit: Fit) -> str:
    """Returns the owner of the memory that a process uses."""
    return "a GPU" if fit.choices.gpus else "a process"


def _advise(run: Run, facts: ModelFacts, fit: Fit, capacity: Capacity) -> str:
    """Returns settings that fit, as a sentence."""
    free = replace(EVERYTHING, offload=fit.choices.gpus)
    other = select_settings(facts, fit.choices, free, capacity)
    if other.fits:
        return f"These settings would fit: {describe_difference(fit.choices, other.choices)}."
    if world := find_world(facts, fit.choices, capacity):
        field = "resources.nodes" if fit.choices.world == run.world.size else "resources.minNodes"
        return f"{world} processes with deepspeed.zeroStage 3 would fit: set {field}."
    if run.method == "Full":
        return "Use method.type LoRA, a smaller model, or more memory."
    return "Use a smaller model, or more memory."


def _describe_excess(fit: Fit, capacity: Capacity) -> str:
    if capacity.device is not None and fit.device.total > capacity.device:
        return (
            f"Training may run out of memory: the estimate is {gib(fit.device.total)} GiB, and {_owner(fit)}"
            f" has {gib(capacity.device)} GiB"
        )
    return (
        f"Train pods may run out of memory: the estimate is {gib(fit.host.train)} GiB, and a pod may have"
        f" {gib(capacity.pod)} GiB"
    )

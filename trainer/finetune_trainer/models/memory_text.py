"""PURE: the memory estimate as text for people."""

from collections.abc import Iterator

from finetune_trainer.models.memory import (
    GIB,
    Choices,
    GpuMemory,
    HostMemory,
    ModelFacts,
)
from finetune_trainer.models.memory_fit import Fit

_WIDTH = 46


def format_plan(facts: ModelFacts, wanted: Choices, fit: Fit, capacity: int) -> str:
    """Formats the estimate of a job.

    Args:
        facts: properties of the model.
        wanted: settings of a job without limits of memory.
        fit: the settings that Prepare selects, and their estimated memory.
        capacity: bytes of memory of a GPU.
    """
    gpu, choices = fit.device, fit.choices
    lines = [
        *_list_inputs(facts, choices),
        "",
        _row("One GPU", "GiB"),
        *_list_gpu_rows(gpu),
        f"{_row('sum', gib(gpu.total))} of {gib(capacity)}: {describe_fit(fit, wanted)}",
        "",
        _row("Host memory of a pod", "GiB"),
        *_list_host_rows(facts, fit.host, choices),
        "",
        "The numbers are estimates; docs/memory.md has the formulas.",
    ]
    return "".join(f"{line}\n" for line in lines)


def describe_fit(fit: Fit, wanted: Choices) -> str:
    """Returns whether the job fits, and the settings that differ from those without limits of memory."""
    if not fit.fits:
        return "does not fit"
    known = "fits" if fit.device.activations is not None else "fits without activations, which are unknown"
    changes = describe_difference(wanted, fit.choices)
    return f"{known} with {changes}" if changes else known


def gib(size: int | None) -> str:
    """Formats bytes in GiB."""
    return "unknown" if size is None else f"{size / GIB:,.1f}"


def _list_inputs(facts: ModelFacts, choices: Choices) -> Iterator[str]:
    dtypes = choices.dtypes
    yield f"model        {facts.base_parameters:,} parameters, {facts.layers} layers, {choices.model_dtype}"
    yield f"method       {facts.trained:,} trained parameters"
    yield (
        f"training     {_count_processes(choices.world)}, ZeRO stage {choices.zero_stage},"
        f" offload {choices.offload}, weights {dtypes.weights}, matrix products {dtypes.products}"
    )
    checkpointing = ", with activation checkpointing" if choices.checkpointing else ""
    yield f"micro-batch  {choices.rows} x {choices.length:,} tokens{checkpointing}"


def _list_gpu_rows(gpu: GpuMemory) -> Iterator[str]:
    parts = {
        "weights": gpu.weights,
        "gradients": gpu.gradients,
        "optimizer state": gpu.optimizer,
        "activations": gpu.activations,
        "logits": gpu.logits,
        "communication buffers": gpu.buffers,
        "gathered parameters (ZeRO-3)": gpu.gathered,
        "copies of weights (autocast, NF4)": gpu.copies,
    }
    yield from (_row(f"  {name}", gib(size)) for name, size in parts.items() if size != 0)
    yield _row("peak of the training steps", gib(gpu.training))
    yield _row("peak while base and tuned model are measured", gib(gpu.evaluation))
    if gpu.checkpoint:
        yield _row("copy of the state for a checkpoint", gib(gpu.checkpoint))
    yield _row("CUDA and its libraries", gib(gpu.libraries))


def _list_host_rows(facts: ModelFacts, host: HostMemory, choices: Choices) -> Iterator[str]:
    yield _row(f"Train, {_count_processes(choices.processes_per_node)}", gib(host.train))
    yield _row("Prepare", gib(host.prepare))
    yield _row("Publish", gib(host.publish))
    if facts.parameters > facts.base_parameters:
        yield _row("Publish with output.mergeAdapter", gib(host.merge))


def _count_processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _row(name: str, value: str) -> str:
    return f"{name:{_WIDTH}}{value:>9}"


def describe_difference(choices: Choices, other: Choices) -> str:
    """Returns the fields of the spec in which settings differ, with the values of the others."""
    parts = []
    if other.checkpointing != choices.checkpointing:
        parts.append("training.activationCheckpointing Enabled")
    if other.zero_stage != choices.zero_stage:
        parts.append(f"deepspeed.zeroStage {other.zero_stage}")
    if other.offload != choices.offload:
        parts.append(f"deepspeed.offload {other.offload}")
    if other.rows != choices.rows:
        parts.append(f"training.microBatchSize {other.rows}")
    if other.length != choices.length:
        parts.append(f"training.maxLength {other.length}")
    return ", ".join(parts)

"""PURE: the memory estimate as text for people."""

from collections.abc import Iterator

from finetune_trainer.models.memory import (
    GIB,
    Choices,
    GpuMemory,
    HostMemory,
    ModelFacts,
    estimate_gpu,
    estimate_host,
    find_alternative,
)

_WIDTH = 46


def format_plan(facts: ModelFacts, choices: Choices, capacity: int) -> str:
    """Formats the estimate of a job.

    Args:
        facts: properties of the model.
        choices: settings of the job.
        capacity: bytes of memory of a GPU.
    """
    gpu, host = estimate_gpu(facts, choices), estimate_host(facts, choices)
    lines = [
        *_list_inputs(facts, choices),
        "",
        _row("One GPU", "GiB"),
        *_list_gpu_rows(gpu),
        f"{_row('sum', gib(gpu.total))} of {gib(capacity)}: {describe_fit(facts, choices, capacity)}",
        "",
        _row("Host memory of a pod", "GiB"),
        *_list_host_rows(facts, host, choices),
        "",
        "The numbers are estimates, and they change no setting of a job. docs/memory.md has the formulas.",
    ]
    return "".join(f"{line}\n" for line in lines)


def describe_fit(facts: ModelFacts, choices: Choices, capacity: int) -> str:
    """Returns `fits`, or what would fit on the same GPUs."""
    memory = estimate_gpu(facts, choices)
    if memory.total <= capacity:
        return "fits" if memory.activations is not None else "fits without activations, which are unknown"
    other = find_alternative(facts, choices, capacity)
    if other:
        pod = estimate_host(facts, other).train
        needs = f" ({gib(pod)} GiB for each Train pod)" if other.offload != "None" else ""
        return f"does not fit; would fit: {_describe_difference(choices, other)}{needs}"
    return "does not fit; no other setting fits on these GPUs"


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
        "bfloat16 copies of weights (autocast)": gpu.copies,
    }
    yield from (_row(f"  {name}", gib(size)) for name, size in parts.items() if size != 0)
    yield _row("peak of the training steps", gib(gpu.training))
    yield _row("peak while base and tuned model are measured", gib(gpu.evaluation))
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


def _describe_difference(choices: Choices, other: Choices) -> str:
    parts = []
    if other.checkpointing != choices.checkpointing:
        parts.append("activationCheckpointing Enabled")
    if other.zero_stage != choices.zero_stage:
        parts.append(f"zeroStage {other.zero_stage}")
    if other.offload != choices.offload:
        parts.append(f"offload {other.offload}")
    if other.rows != choices.rows:
        parts.append(f"microBatchSize {other.rows}")
    if other.length != choices.length:
        parts.append(f"maxLength {other.length}")
    return ", ".join(parts)

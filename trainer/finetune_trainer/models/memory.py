"""PURE: estimates the memory of a training process on its GPU, and of the pods of a job. Decides nothing.

Symbols: P parameters of the model in memory (with an adapter), T trained parameters, S parameters in small
tensors, Q quantized parameters, n world size, w bytes of a weight in memory (2 for bfloat16, 4 for float32).
The sources are files of DeepSpeed 0.19. `tests/trainer/training/test_memory.py` compares the formulas with
real training steps.
"""

from dataclasses import dataclass

from finetune_trainer.config import ComputeType
from finetune_trainer.contract import Offload, WeightsDtype
from finetune_trainer.models.dtypes import Dtypes, select_dtypes

GIB = 1024**3
BUCKET = 20_000_000
"""Elements of a communication bucket of DeepSpeed: 80 MB of float32."""
PERSISTENT = 100_000
"""ZeRO-3: parameters with fewer elements stay on every rank, because gathering costs more than it saves."""
PREFETCH = 20_000_000
"""ZeRO-3: elements of the parameters that DeepSpeed gathers ahead of their use."""
LIVE = 1_000_000_000
"""ZeRO-3: maximum elements of gathered parameters, where memory does not limit them."""
TRIAL_PARAMETERS = 300_000_000
"""Maximum number of parameters of the model with random weights that Prepare runs."""
SHARD_BYTES = 2_000_000_000
"""Maximum size of a file of published weights; a larger tensor has a file of its own."""
_ALL_REDUCE = 500_000_000
"""Elements that DeepSpeed reduces at once without ZeRO (MEMORY_OPT_ALLREDUCE_SIZE in runtime/engine.py)."""
_SUB_GROUP = 1_000_000_000
"""ZeRO-3: parameters of one rank that the optimizer updates at once (sub_group_size in zero/config.py)."""
_QUANTIZED_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a quantized weight: 4 bits, 8 bits for each 64 weights, and 4 bytes for each 256 of these."""
_GPU_LIBRARIES = 2 * GIB
"""Estimate: CUDA context, workspaces of cuBLAS and NCCL, and gaps between the blocks of the allocator."""
_CPU_LIBRARIES = GIB
"""Estimate: host memory of the libraries of a process that trains on CPUs."""
_PROCESS_LIBRARIES = 3 * GIB
"""Estimate: host memory of the libraries of one training process."""
_STAGE_LIBRARIES = 3 * GIB // 2
"""Estimate: host memory of the libraries of Prepare or Publish."""


@dataclass(frozen=True)
class Activations:
    """The tensors that the forward pass saves for the backward pass."""

    token: float
    """Bytes for each token."""
    pair: float
    """Bytes for each pair of tokens of a row; 0 if the attention saves no pairs."""


@dataclass(frozen=True)
class ModelFacts:
    """The properties of a model and a training method on which the memory depends."""

    base_parameters: int
    """Parameters of the base model; tied weights count once."""
    parameters: int
    """P: parameters in memory, with an adapter."""
    trained: int
    """T: trained parameters."""
    small: int
    """S: parameters in tensors of fewer than PERSISTENT elements."""
    embeddings: int
    """Parameters of the token embeddings."""
    largest_layer: int
    """Parameters of the largest layer."""
    largest_tensor: int
    """Elements of the largest parameter."""
    largest_trained: int
    """Elements of the largest trained parameter."""
    hidden: int
    """Width of the model."""
    layers: int
    vocabulary: int
    kv_heads: int
    """Attention heads for keys and values."""
    outputs: int
    """Logits of each token: the size of the vocabulary, or 0 for a classifier."""
    can_checkpoint: bool
    """Whether the architecture supports activation checkpointing."""
    logits_chunk: int
    """Maximum bytes of the float32 copy of a chunk of logits."""
    activations: Activations | None
    """In the data type of the weights, also if matrix products have a smaller one; None if unknown."""
    quantized: int = 0
    """Q: parameters that are quantized during training."""
    largest_quantized: int = 0
    """Elements of the largest quantized parameter."""


@dataclass(frozen=True)
class Choices:
    """The settings of a job on which the memory depends."""

    zero_stage: int
    offload: Offload
    world: int
    """n: processes of all pods; one process for each GPU."""
    processes_per_node: int
    model_dtype: WeightsDtype
    """Data type of the weights of the base model."""
    products: ComputeType
    """Data type of matrix products."""
    rows: int
    """Rows of a micro-batch of one process."""
    length: int
    """Tokens of each row."""
    checkpointing: bool = False
    """Whether the backward pass computes the activations of each layer again."""
    live: int = LIVE
    """ZeRO-3: maximum elements of gathered parameters."""
    gpus: bool = True
    """Whether the processes use GPUs; else GpuMemory is the host memory of a process."""

    @property
    def dtypes(self) -> Dtypes:
        """The data types of the run."""
        return select_dtypes(self.model_dtype, self.products, self.zero_stage)

    @property
    def weight_bytes(self) -> int:
        """w: bytes of a weight in memory."""
        return 2 if self.dtypes.weights == "bfloat16" else 4


@dataclass(frozen=True)
class GpuMemory:
    """Estimated bytes on one GPU, or of a process that trains on CPUs."""

    weights: int
    gradients: int
    optimizer: int
    """Two moments of Adam and the float32 copy of the trained weights."""
    buffers: int
    """Communication buckets, and whole gradients during their reduction."""
    gathered: int
    """ZeRO-3: parameters that are gathered for the current layers."""
    copies: int
    """Autocast: bfloat16 copies of float32 weights. Quantized weights: the dequantized weight of a layer."""
    activations: int | None
    """None if unknown."""
    logits: int
    step: int
    """A copy of the gradients during the step of the optimizer."""
    evaluation: int
    """While base model and tuned model are measured: weights and logits."""
    libraries: int = 0
    checkpoint: int = 0
    """Without GPUs: the copy of the state for a checkpoint. With GPUs, the copy is in host memory."""

    @property
    def persistent(self) -> int:
        """Weights, gradients and optimizer state, which exist during all training steps."""
        return self.weights + self.gradients + self.optimizer

    @property
    def training(self) -> int:
        """Peak of the training steps; without activations if they are unknown."""
        forward = self.buffers + self.gathered + self.copies + (self.activations or 0) + self.logits
        return self.persistent + max(forward, self.step)

    @property
    def total(self) -> int:
        """Peak of Train."""
        return self.libraries + max(self.training + self.checkpoint, self.evaluation)


@dataclass(frozen=True)
class HostMemory:
    """Estimated bytes of host memory of each pod."""

    train: int
    """One Train pod."""
    prepare: int
    publish: int
    merge: int
    """Publish, if an adapter is merged into the base model."""


def estimate_gpu(facts: ModelFacts, choices: Choices) -> GpuMemory:
    """Estimates the memory of one GPU.

    | stage | weights | gradients | optimizer |
    |---|---|---|---|
    | 0 | 4 P | 4 T | 8 T |
    | 1 | w P | 4 T, and 2 T for bfloat16 weights | 12 T / n |
    | 2 | w P | 4 T / n | 12 T / n |
    | 3 | w P / n + w S | 4 T / n | 12 T / n |

    Quantized weights have 0.516 Q bytes instead of w Q, except while the models are measured.

    Stages 1 to 3 have a float32 copy of the trained weights also for float32 weights: stages 1 and 2 always
    (`stage_1_and_2.py`, single_partition_of_fp32_groups), and stage 3 because it compares a device with a
    string (`stage3.py`, _create_fp32_partitions). Stage 1 keeps all gradients between the micro-batches of a
    step; with bfloat16 weights in both data types (`bf16_optimizer.py`).
    """
    saved = round((choices.weight_bytes - _QUANTIZED_BYTES) * facts.quantized)
    return GpuMemory(
        weights=_weights(facts, choices, choices.weight_bytes * facts.parameters - saved),
        gradients=_gradients(facts, choices),
        optimizer=0 if choices.offload != "None" else _optimizer(facts, choices),
        buffers=_buffers(facts, choices),
        gathered=_gathered(facts, choices),
        copies=_copies(facts, choices),
        activations=_activations(facts, choices),
        logits=_logits(facts, choices),
        step=_step_copy(facts, choices),
        # A pass has twice the rows of a micro-batch, and no gradient of the logits.
        evaluation=_weights(facts, choices, choices.weight_bytes * facts.parameters)
        + _gathered(facts, choices)
        + _logits(facts, choices),
        libraries=_GPU_LIBRARIES if choices.gpus else _CPU_LIBRARIES,
        checkpoint=0 if choices.gpus else estimate_checkpoint(facts, choices),
    )


def estimate_host(facts: ModelFacts, choices: Choices) -> HostMemory:
    """Estimates the host memory of the pods.

    At ZeRO stages 0 to 2, each process of a Train pod loads the model into host memory before the model
    moves to the GPU. During training, each process has a copy of its share of a checkpoint. At the end,
    the first process saves the adapter, or the model layer by layer, and then checks the model as Publish
    does. Prepare runs a model with random float32 weights and reads the files of the model in parts.
    Publish maps the files into memory, and converts one module at a time to float32; merging an adapter
    saves the merged model layer by layer.
    """
    weight, processes = choices.weight_bytes, choices.processes_per_node
    loading = weight * facts.parameters * processes if choices.zero_stage < 3 else 0  # noqa: PLR2004
    checking = 4 * max(facts.largest_layer, facts.largest_tensor)
    saving = _saving(facts, choices)
    saved = saving if facts.parameters == facts.base_parameters else 2 * weight * facts.trained
    if choices.gpus:
        trained = processes * (estimate_offloaded(facts, choices) + estimate_checkpoint(facts, choices))
        train = processes * _PROCESS_LIBRARIES + max(loading, trained, saved, checking)
    else:
        process = estimate_gpu(facts, choices)
        finished = processes * (process.libraries + process.weights) + max(saved, checking)
        train = max(processes * process.total, finished)
    return HostMemory(
        train=train,
        prepare=_STAGE_LIBRARIES + 4 * min(facts.base_parameters, TRIAL_PARAMETERS),
        publish=_STAGE_LIBRARIES + checking,
        merge=_STAGE_LIBRARIES + max(saving + 4 * facts.largest_tensor, checking),
    )


def _saving(facts: ModelFacts, choices: Choices) -> int:
    """Returns the bytes for saving a model: the tensors of one file, and two copies of the largest part.

    A part is a layer, or the embeddings of inputs and outputs. The second copy has the names and shapes of
    the files.
    """
    file_bytes = 4 if choices.model_dtype == "float32" else 2
    part = max(facts.largest_layer, 2 * facts.embeddings)
    return min(SHARD_BYTES, file_bytes * facts.base_parameters) + file_bytes * 2 * part


def estimate_checkpoint(facts: ModelFacts, choices: Choices) -> int:
    """Estimates the host memory of one process for its share of a checkpoint.

    The float32 weight and both moments of the trained parameters have 12 T / n bytes, of which one copy
    exists at a time. Without ZeRO, each process resumes from the whole checkpoint of 12 T bytes.
    """
    whole = 12 * facts.trained
    return whole if choices.zero_stage == 0 else _divide(whole, choices.world)


def estimate_offloaded(facts: ModelFacts, choices: Choices) -> int:
    """Estimates the host memory of the offloaded state of one process.

    The copy of the weights, both moments and two partitions of the gradients have 20 T / n bytes. Stages 1
    and 2 also have a partition of the weights and a buffer for one gradient (`stage_1_and_2.py`,
    param_buffer_of_bit16_for_cpu_offload_groups, temp_grad_buffer_for_cpu_offload).
    """
    if choices.offload == "None":
        return 0
    weight, world = choices.weight_bytes, choices.world
    if choices.zero_stage < 3:  # noqa: PLR2004 - the stages have only numbers
        return _divide((20 + weight) * facts.trained, world) + weight * facts.largest_trained
    weights = weight * facts.parameters if choices.offload == "OptimizerAndParameters" else 0
    return _divide(20 * facts.trained + weights, world)


def _divide(count: int, world: int) -> int:
    return -(-count // world)


def _weights(facts: ModelFacts, choices: Choices, whole: int) -> int:
    """Returns the bytes of the weights of one process, of `whole` bytes of the model."""
    if choices.zero_stage < 3:  # noqa: PLR2004 - the stages have only numbers
        return whole
    small = choices.weight_bytes * facts.small
    return small if choices.offload == "OptimizerAndParameters" else _divide(whole, choices.world) + small


def _copies(facts: ModelFacts, choices: Choices) -> int:
    """Returns the bytes of copies of weights in the data type of the matrix products.

    Autocast saves the copy of each weight for the backward pass. Quantized weights have the copy of the
    current layer alone.
    """
    if choices.dtypes.autocast:
        return 2 * (facts.parameters - facts.quantized + facts.largest_quantized)
    return choices.weight_bytes * facts.largest_quantized


def _gradients(facts: ModelFacts, choices: Choices) -> int:
    if choices.zero_stage == 0:
        return 4 * facts.trained
    if choices.zero_stage == 1:
        return (6 if choices.dtypes.weights == "bfloat16" else 4) * facts.trained
    # Offloaded gradients are accumulated in host memory.
    return 0 if choices.offload != "None" else _divide(4 * facts.trained, choices.world)


def _optimizer(facts: ModelFacts, choices: Choices) -> int:
    if choices.zero_stage == 0:
        return 8 * facts.trained
    return _divide(12 * facts.trained, choices.world)


def _buffers(facts: ModelFacts, choices: Choices) -> int:
    """Returns the bytes of communication buckets.

    Stages 1 and 2 allocate two buckets (`stage_1_and_2.py`, setup_buckets) in the data type of the gradients,
    and reduce a float32 copy of a bfloat16 bucket. Stage 3 allocates one bucket of float32 (`stage3.py`).
    Stage 0, and stage 1 with bfloat16 weights, copy up to 500 million gradients to one float32 tensor
    (`engine.py`, buffered_allreduce_fallback). Stages 2 and 3 reduce a gradient that is larger than a bucket
    on its own, with a float32 copy.
    """
    bfloat16, stage = choices.dtypes.weights == "bfloat16", choices.zero_stage
    if stage == 0 or (stage == 1 and bfloat16 and choices.offload == "None"):
        return 4 * min(facts.trained, _ALL_REDUCE) if choices.world > 1 else 0
    large = facts.largest_trained if facts.largest_trained > BUCKET else 0
    reduced = (choices.weight_bytes + 4) * large
    if stage == 3:  # noqa: PLR2004 - the stages have only numbers
        return 4 * BUCKET + reduced
    copy = 4 * min(facts.trained, BUCKET) if bfloat16 and choices.world > 1 else 0
    if choices.offload != "None":
        reduced += choices.weight_bytes * facts.largest_trained
    return 2 * choices.weight_bytes * BUCKET + max(copy, reduced)


def _gathered(facts: ModelFacts, choices: Choices) -> int:
    """Returns the bytes of gathered parameters.

    DeepSpeed keeps parameters that are used again within `live` elements, and gathers the next tensor in
    addition (`partitioned_param_coordinator.py`, __params_to_release). While a tensor is gathered, a buffer
    holds the parts of all ranks (`partition_parameters.py`, AllGatherCoalescedHandle).
    """
    if choices.zero_stage != 3:  # noqa: PLR2004 - the stages have only numbers
        return 0
    elements = min(facts.parameters - facts.small, choices.live + facts.largest_tensor)
    return choices.weight_bytes * (elements + facts.largest_tensor)


def _activations(facts: ModelFacts, choices: Choices) -> int | None:
    """Returns the bytes of activations.

    With checkpointing: the input of each layer, and the activations of one layer.
    """
    if facts.activations is None:
        return None
    tokens, pairs = choices.rows * choices.length, choices.rows * choices.length**2
    whole = round(facts.activations.token * tokens + facts.activations.pair * pairs)
    if not choices.checkpointing:
        return whole
    inputs = choices.weight_bytes * facts.hidden * facts.layers * tokens
    return min(whole, inputs + _divide(whole, facts.layers))


def _logits(facts: ModelFacts, choices: Choices) -> int:
    """Returns the bytes of the logits of all tokens, of their gradient, and of two chunks in float32."""
    elements = choices.rows * choices.length * facts.outputs
    weight = 2 if choices.dtypes.products == "bfloat16" else 4
    return 2 * weight * elements + 2 * min(facts.logits_chunk, 4 * elements)


def _step_copy(facts: ModelFacts, choices: Choices) -> int:
    """Returns the bytes by which the step of the optimizer exceeds the persistent memory.

    The optimizer steps with a flat copy of the gradients of its partition (`step` in `stage_1_and_2.py` and
    `stage3.py`). Stage 3 steps in groups of a billion parameters. With bfloat16 weights, the gradients of
    stages 1 and 2 are flat already. Stage 1 has freed the gradients of other partitions by then.
    """
    if choices.zero_stage == 0 or choices.offload != "None":
        return 0
    partition = _divide(facts.trained, choices.world)
    if choices.zero_stage == 3:  # noqa: PLR2004 - the stages have only numbers
        return 4 * min(partition, _SUB_GROUP)
    if choices.dtypes.weights == "bfloat16":
        return 0
    return 4 * partition if choices.zero_stage > 1 else max(0, 8 * partition - 4 * facts.trained)

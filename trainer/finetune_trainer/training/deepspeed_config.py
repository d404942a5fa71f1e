"""The DeepSpeed configuration of a run. Pure: decisions in, dict out; no number is left to `auto`."""

from typing import Any, Literal

from finetune_trainer.config import Offload, Training
from finetune_trainer.contract import Chosen

Precision = Literal["float32", "bfloat16"]
"""What matrix products compute in. The weights and the optimizer's state are always float32."""

_BUCKET = 20_000_000
"""Elements of a communication bucket: 80 MB of float32, which DeepSpeed allocates twice."""
_PERSISTENT = 100_000
"""ZeRO-3: parameters smaller than this stay whole on every rank; gathering them costs more than it saves."""
_PREFETCH = 20_000_000
_LIVE = 1_000_000_000


def deepspeed_config(
    chosen: Chosen, training: Training, precision: Precision, offload: Offload
) -> dict[str, Any]:
    """The dict for `TrainingArguments(deepspeed=...)`.

    bfloat16 runs as DeepSpeed's autocast, not as its `bf16` mode: the weights that are evaluated, kept and
    published are then the float32 masters themselves.
    """
    return {
        "train_batch_size": chosen.batch_size,
        "train_micro_batch_size_per_gpu": chosen.micro_batch_size,
        "gradient_accumulation_steps": chosen.accumulation_steps,
        "gradient_clipping": engine_clip(chosen.zero_stage, training.max_gradient_norm),
        "zero_optimization": _zero(chosen.zero_stage) | _offloaded(offload),
        "torch_autocast": {
            "enabled": precision == "bfloat16",
            "dtype": "bfloat16",
            # DeepSpeed reduces the gradients of these modules in bfloat16. Without any, all are reduced in
            # float32, the dtype of the weights.
            "lower_precision_safe_modules": [],
        },
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        # DeepSpeed's ZeRO wants to be told that PyTorch's AdamW is welcome, also for what is offloaded: it is
        # fused on the host too, while DeepSpeed's own would have to be compiled where there is a GPU.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def engine_clip(zero_stage: int, max_gradient_norm: float) -> float:
    """The gradient clipping that the engine does itself.

    0 (none) at stage 0: there the engine clips without telling the norm, so loop.py clips in its place.
    """
    return max_gradient_norm if zero_stage > 0 else 0.0


def own_clip(zero_stage: int, max_gradient_norm: float) -> float:
    """The gradient clipping that loop.py does: where the engine does none."""
    return 0.0 if zero_stage > 0 else max_gradient_norm


def _offloaded(offload: Offload) -> dict[str, Any]:
    host = {"device": "cpu", "pin_memory": True}
    match offload:
        case "None":
            return {}
        case "Optimizer":
            return {"offload_optimizer": host}
        case "OptimizerAndParameters":
            return {"offload_optimizer": host, "offload_param": host}


def _zero(stage: int) -> dict[str, Any]:
    if stage == 0:
        return {"stage": 0}
    common = {
        "stage": stage,
        "reduce_bucket_size": _BUCKET,
        "overlap_comm": True,
        "contiguous_gradients": True,
    }
    if stage == 1:
        return {**common, "allgather_bucket_size": _BUCKET}
    if stage == 2:  # noqa: PLR2004 - the stages have no other names
        return {**common, "allgather_bucket_size": _BUCKET, "reduce_scatter": True}
    return {
        **common,
        "stage3_prefetch_bucket_size": _PREFETCH,
        "stage3_param_persistence_threshold": _PERSISTENT,
        "stage3_max_live_parameters": _LIVE,
        "stage3_max_reuse_distance": _LIVE,
        "stage3_gather_16bit_weights_on_model_save": False,
    }

"""PURE. The DeepSpeed configuration of a run, without values `auto`."""

from typing import Any

from finetune_trainer.config import Training
from finetune_trainer.contract import Chosen, Offload
from finetune_trainer.models.dtypes import Dtypes
from finetune_trainer.models.memory import BUCKET, PERSISTENT, PREFETCH


def deepspeed_config(chosen: Chosen, training: Training, dtypes: Dtypes) -> dict[str, Any]:
    """The DeepSpeed configuration for `TrainingArguments(deepspeed=...)`.

    Bfloat16 weights use the `bf16` mode of DeepSpeed. Bfloat16 products with float32 weights use the autocast
    of DeepSpeed, so that the float32 weights themselves are evaluated and published. In both cases, gradients
    are accumulated and reduced in float32. For DeepSpeed, an optimizer step has one micro-batch of one row:
    the training loop tells DeepSpeed the last micro-batch of each step.

    Args:
        chosen: hyperparameters from Prepare.
        training: hyperparameters from the spec.
        dtypes: data types of weights and matrix products.
    """
    return {
        "train_batch_size": chosen.world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": engine_clip(chosen.zero_stage, training.max_gradient_norm),
        "zero_optimization": _zero(chosen.zero_stage, chosen) | _offloaded(chosen.offload),
        "torch_autocast": {
            "enabled": dtypes.autocast,
            "dtype": "bfloat16",
            # DeepSpeed reduces the gradients of these modules in bfloat16. Without any, all are reduced in
            # float32, the dtype of the weights.
            "lower_precision_safe_modules": [],
        },
        "fp16": {"enabled": False},
        **_weights(dtypes),
        # The trainer uses the fused AdamW of PyTorch, also for offloaded state. DeepSpeed permits this
        # optimizer only with the following flags; its own optimizer would need a compiler on the GPU node.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def evaluation_config(chosen: Chosen, dtypes: Dtypes) -> dict[str, Any]:
    """The DeepSpeed configuration of an engine without optimizer, which evaluates a sharded model (ZeRO-3).

    Args:
        chosen: hyperparameters from Prepare.
        dtypes: data types of weights and matrix products.
    """
    zero = _zero(3, chosen) | _offloaded(chosen.offload)
    zero.pop("offload_optimizer", None)
    return {
        "train_batch_size": chosen.world_size,
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        **_weights(dtypes),
        "steps_per_print": 1_000_000_000,
    }


def _weights(dtypes: Dtypes) -> dict[str, Any]:
    if dtypes.weights == "float32":
        return {"bf16": {"enabled": False}}
    return {
        "bf16": {"enabled": True},
        # By default, DeepSpeed accumulates and reduces the gradients of bfloat16 weights in bfloat16.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
    }


def engine_clip(zero_stage: int, max_gradient_norm: float) -> float:
    """The maximum gradient norm with which DeepSpeed clips.

    Returns:
        `max_gradient_norm`; 0 (no clipping) at ZeRO stage 0, where DeepSpeed does not report the norm and
        loop.py clips instead.
    """
    return max_gradient_norm if zero_stage > 0 else 0.0


def own_clip(zero_stage: int, max_gradient_norm: float) -> float:
    """The maximum gradient norm with which loop.py clips; 0 (no clipping) where DeepSpeed clips."""
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


def _zero(stage: int, chosen: Chosen) -> dict[str, Any]:
    if stage == 0:
        return {"stage": 0}
    common = {
        "stage": stage,
        "reduce_bucket_size": BUCKET,
        "overlap_comm": True,
        "contiguous_gradients": True,
    }
    if stage == 1:
        return {**common, "allgather_bucket_size": BUCKET}
    if stage == 2:  # noqa: PLR2004 - the stages have only numbers
        return {**common, "allgather_bucket_size": BUCKET, "reduce_scatter": True}
    return {
        **common,
        "stage3_prefetch_bucket_size": PREFETCH,
        "stage3_param_persistence_threshold": PERSISTENT,
        "stage3_max_live_parameters": chosen.gathered_parameters,
        "stage3_max_reuse_distance": chosen.gathered_parameters,
        "stage3_gather_16bit_weights_on_model_save": False,
    }

"""Frees the memory of models that are no longer used."""

import gc
import inspect
import sys

import torch


def free_models(device: torch.device) -> None:
    """Frees models that the trainer no longer refers to, together with their engines.

    At ZeRO stage 3, DeepSpeed keeps references to every model of the process: in a stack of modules, in a
    cache of a method, and in names for debugging. Without this function, each further model would need
    memory beside the models before.

    Args:
        device: device of the models.
    """
    if "deepspeed" in sys.modules:
        from deepspeed.runtime.zero import parameter_offload  # noqa: PLC0415 - heavy
        from deepspeed.runtime.zero.partitioned_param_coordinator import (  # noqa: PLC0415
            PartitionedParameterCoordinator,
        )
        from deepspeed.utils import debug  # noqa: PLC0415

        parameter_offload.FWD_MODULE_STACK.clear()
        method = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release  # noqa: SLF001
        # A wrapper without functools.wraps hides the cached method.
        inspect.getclosurevars(method).nonlocals["func"].cache_clear()
        debug.module_names, debug.param_names = {}, {}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

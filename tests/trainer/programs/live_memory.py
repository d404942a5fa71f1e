"""Run by torchrun: the bytes of all tensors of a process during the last optimizer step of the real loop.

Arguments: the result file, and one or more JSON lists
[folder of the base model, method, ZeRO stage, offload, data type of the base model and of matrix products].
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from deepspeed import DeepSpeedEngine
from pydantic import TypeAdapter

from finetune_trainer.config import ComputeType, Method
from finetune_trainer.contract import Offload
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.memory import BUCKET
from finetune_trainer.pod.rank import leave
from finetune_trainer.training.distributed import join_gang
from finetune_trainer.training.loop import Loop
from tests.trainer.programs import truth


def find_storages() -> dict[int, int]:
    """Bytes of each storage by address: of the tensors since `gc.freeze`, and of their gradients."""
    gc.collect()
    found = {}
    for value in gc.get_objects():
        if not issubclass(type(value), torch.Tensor) or value.device.type != "cpu":
            continue
        for tensor in (value, value.grad if value.is_leaf else None):
            if tensor is not None:
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return found


class Watch:
    """Measures the tensors at moments of the last optimizer step."""

    def __init__(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.found: dict[str, list[int]] = {}
        """Bytes without communication buckets, and bytes of the buckets, by moment."""
        self.last = False

    def look(self, moment: str) -> None:
        sizes = find_storages().values()
        buckets = sum(size for size in sizes if size in {2 * BUCKET, 4 * BUCKET})
        self.found[moment] = max([sum(sizes) - buckets, buckets], self.found.get(moment, [0, 0]))

    def run(
        self, gang: Any, base: str, method: object, stage: int, offload: Offload, dtype: ComputeType
    ) -> None:
        compute, create, step = Loop.compute_losses, Loop.create_optimizer, DeepSpeedEngine.step

        def watched_losses(loop: Loop, engine: Any, *args: Any, **kwargs: Any) -> Any:
            boundary = engine.is_gradient_accumulation_boundary()
            self.last = boundary and loop.state.global_step == loop.state.max_steps - 1
            if self.last:
                self.look("micro-batch")
                embeddings: Any = loop.model.get_input_embeddings()
                embeddings.register_forward_hook(watched_embeddings)
            return compute(loop, engine, *args, **kwargs)

        def watched_embeddings(_module: object, _inputs: object, output: torch.Tensor) -> None:
            # Their gradient is the last one: by then, the engine has its buckets.
            if output.requires_grad:
                output.register_hook(lambda _: self.look("backward"))

        def watched_step(engine: Any, *args: Any, **kwargs: Any) -> Any:
            if self.last:
                self.look("step")
            return step(engine, *args, **kwargs)

        def watched_create(loop: Loop, *args: Any, **kwargs: Any) -> Any:
            optimizer = create(loop, *args, **kwargs)
            if not hasattr(optimizer, "watched"):
                optimizer.watched = True
                optimizer.register_step_pre_hook(lambda *_: self.look("update") if self.last else None)
            return optimizer

        with (
            mock.patch.object(Loop, "compute_losses", watched_losses),
            mock.patch.object(Loop, "create_optimizer", watched_create),
            mock.patch.object(DeepSpeedEngine, "step", watched_step),
        ):
            truth.steps(
                gang,
                truth.PACKED,
                Path(base),
                stage,
                2,
                heartbeat=truth.Calm(),
                how=TypeAdapter[Method](Method).validate_python(method),
                offload=offload,
                learning_rate=1e-4,
                precision=dtype,
                base_dtype=dtype,
            )


def main() -> None:
    """Measures every case in one process group."""
    silence_libraries()
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    measured = []
    for base, method, stage, offload, dtype in map(json.loads, sys.argv[2:]):
        watch = Watch()
        watch.run(gang, base, method, stage, offload, dtype)
        measured.append(watch.found)
    if gang.first:
        Path(sys.argv[1]).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
    leave(0)

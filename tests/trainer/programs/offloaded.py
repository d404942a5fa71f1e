"""Run by torchrun: steps of the real loop that learn, with what ZeRO manages in the host's memory or not.

Arguments: folder of the base model, result file, data type of the base model and of matrix products.
"""

import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from finetune_trainer.config import ComputeType, Lora, Method
from finetune_trainer.contract import Offload
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.pod.rank import leave
from finetune_trainer.training.distributed import join_gang
from tests.trainer.programs import truth

CASES: tuple[tuple[int, Offload], ...] = (
    (2, "None"),
    (1, "Optimizer"),
    (2, "Optimizer"),
    (3, "OptimizerAndParameters"),
)
METHODS: dict[str, Method] = {"Full": "Full", "LoRA": Lora(rank=4, alpha=8)}


def main() -> None:
    """Measures every case in this one gang."""
    base, result = Path(sys.argv[1]), Path(sys.argv[2])
    dtype = TypeAdapter[ComputeType](ComputeType).validate_python(sys.argv[3])
    silence_libraries()
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    measured = {
        name: {
            json.dumps([stage, offload]): truth.steps(
                gang,
                truth.CLASSIFICATION,
                base,
                stage,
                2,
                heartbeat=truth.Calm(),
                how=how,
                offload=offload,
                learning_rate=0.01,
                precision=dtype,
                base_dtype=dtype,
            )
            for stage, offload in CASES
        }
        for name, how in METHODS.items()
    }
    if gang.first:
        result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
    leave(0)

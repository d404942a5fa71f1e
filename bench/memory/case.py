"""The cases of the benchmark: a model with random weights, a method, and the settings of a run."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, Self

from finetune_trainer.config import ComputeType, Lora, Method
from finetune_trainer.models.memory import Choices


@dataclass(frozen=True)
class Case:
    """One run."""

    method: Literal["Full", "LoRA", "QLoRA"]
    zero_stage: int
    world: int
    dtype: ComputeType
    """Data type of the model and of matrix products."""
    rows: int
    """Rows of a micro-batch."""
    length: int
    """Tokens of a row."""
    checkpointing: bool = False

    @property
    def spec(self) -> Method:
        """The training method."""
        if self.method == "Full":
            return "Full"
        return Lora(rank=16, quantization="NF4" if self.method == "QLoRA" else "None")

    @property
    def choices(self) -> Choices:
        """The settings on which the memory depends."""
        return Choices(
            zero_stage=self.zero_stage,
            offload="None",
            world=self.world,
            processes_per_node=self.world,
            model_dtype=self.dtype,
            products=self.dtype,
            rows=self.rows,
            length=self.length,
            checkpointing=self.checkpointing,
            gpus=False,
        )

    def encode(self) -> str:
        """The case as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `encode`."""
        return cls(**json.loads(text))


CASES = (
    Case("Full", 0, 1, "float32", 2, 256),
    Case("Full", 0, 1, "float32", 2, 256, checkpointing=True),
    Case("Full", 0, 2, "float32", 2, 256),
    Case("Full", 2, 2, "float32", 2, 256),
    Case("Full", 3, 2, "float32", 2, 256),
    Case("Full", 2, 1, "bfloat16", 2, 256),
    Case("Full", 2, 2, "bfloat16", 4, 256, checkpointing=True),
    Case("Full", 3, 2, "bfloat16", 2, 256),
    Case("LoRA", 0, 1, "float32", 2, 256),
    Case("LoRA", 0, 1, "float32", 8, 256),
    Case("LoRA", 0, 1, "float32", 8, 256, checkpointing=True),
    Case("LoRA", 2, 2, "float32", 1, 1024),
    Case("LoRA", 3, 2, "float32", 2, 256),
    Case("LoRA", 2, 1, "bfloat16", 8, 256),
    Case("LoRA", 2, 2, "bfloat16", 4, 512, checkpointing=True),
    Case("LoRA", 3, 2, "bfloat16", 4, 256),
    Case("QLoRA", 2, 1, "bfloat16", 4, 256),
    Case("QLoRA", 3, 2, "bfloat16", 4, 256, checkpointing=True),
)

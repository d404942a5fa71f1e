"""Run by torchrun: saves models that are sharded over two ranks (ZeRO-3).

Arguments: a folder with one folder for each base model. The saved model of each base model is in the folder
`found` below the folder of the base model.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_trainer.config import Training
from finetune_trainer.contract import Chosen
from finetune_trainer.models import methods
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.weights import is_sharded
from finetune_trainer.pod.rank import leave
from finetune_trainer.training import deepspeed_config
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.distributed import join_gang


def main() -> None:
    """Saves each model in float32."""
    folder = Path(sys.argv[1])
    silence_libraries()
    # DeepSpeed would keep the parameters of a tiny model on every rank.
    deepspeed_config.PERSISTENT = 0  # type: ignore[attr-defined]
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    chosen = Chosen(
        epochs=1, batch_size=8, micro_batch_size=4, accumulation_steps=1, world_size=2, learning_rate=0.01,
        max_length=16, zero_stage=3, total_steps=1,
    )  # fmt: skip
    # Models are sharded as long as the arguments exist.
    _arguments = arguments(
        chosen,
        Training(),
        select_dtypes("float32", "float32", 3),
        folder=str(folder / "trainer"),
        gpus=False,
        steps=1,
    )
    for base in sorted(path.parent for path in folder.glob("*/config.json")):
        auto: Any = AutoModelForSequenceClassification if base.name == "bert" else AutoModelForCausalLM
        torch.manual_seed(0)
        model = auto.from_pretrained(base, dtype=torch.float32)
        if not is_sharded(model):
            raise AssertionError("the model is not sharded")
        methods.save(model, base / "found" if gang.first else None, "base", torch.float32)


if __name__ == "__main__":
    main()
    leave(0)

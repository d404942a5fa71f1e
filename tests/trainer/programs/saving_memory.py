"""Run by torchrun: the memory in which rank 0 saves and checks a sharded model (ZeRO-3).

Arguments: the training method (Full or merged LoRA) and a folder for files.
"""

import json
import sys
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Self

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.config import Lora, Method, Training
from finetune_trainer.contract import Chosen
from finetune_trainer.models import methods, whole_weights
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.weights import is_sharded
from finetune_trainer.paths import MODEL_FOLDER, Paths
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training import saved_model, staging
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.distributed import join_gang
from finetune_trainer.training.evaluate import over_rows
from finetune_trainer.training.evaluation_engine import ready
from tests.trainer.programs import truth
from tests.trainer.programs.verification_memory import anonymous_memory
from tests.trainer.training.contexts import context_with

METHODS: dict[str, Method] = {"Full": "Full", "merged LoRA": Lora(rank=4, merge=True)}
CONFIG = LlamaConfig(
    vocab_size=8000,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=14,
    num_attention_heads=8,
    num_key_value_heads=8,
)


class Peak:
    """Measures the largest growth of the anonymous memory of this process within the context."""

    def __enter__(self) -> Self:
        self.start = anonymous_memory()
        self.growth = 0
        self._ended = Event()
        self._thread = Thread(target=self._measure)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._ended.wait(0.002):
            self.growth = max(self.growth, anonymous_memory() - self.start)


def main() -> None:
    """Saves a bfloat16 model of 60 million parameters, in files of 20 MB."""
    method, folder = METHODS[sys.argv[1]], Path(sys.argv[2])
    silence_libraries()
    whole_weights.SHARD_BYTES = 20_000_000  # type: ignore[misc]
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    base = folder / "base"
    if gang.first:
        torch.manual_seed(0)
        LlamaForCausalLM(CONFIG).to(torch.bfloat16).save_pretrained(base)
    torch.distributed.barrier()
    dtypes = select_dtypes("bfloat16", "bfloat16", 3)
    run = SimpleNamespace(method=method, training=Training(), served_base_name="base")
    chosen = Chosen(
        epochs=1, batch_size=8, micro_batch_size=4, accumulation_steps=1, world_size=2, learning_rate=0.01,
        max_length=16, zero_stage=3, total_steps=1,
    )  # fmt: skip
    context = context_with(
        gang=gang,
        dtypes=dtypes,
        config=SimpleNamespace(run=run),
        chosen=chosen,
        paths=Paths(folder / f"root-{gang.rank}"),
        heartbeat=truth.Calm(),
        prepared=truth.PADDED.prepared,
        base=base,
        pad_id=0,
        task=training_task("TextGeneration"),
    )
    # Models are sharded as long as the arguments exist.
    _arguments = arguments(chosen, run.training, dtypes, folder=str(folder / "trainer"), gpus=False, steps=1)
    with ready(context, context.load_model()) as model:
        methods.merge_if_requested(method, model, context.published_dtype)
        predict = partial(truth.PADDED.model.predict, model)
        predictions = over_rows(context, predict, truth.PADDED.rows, lambda _: None)
    if not is_sharded(model):
        raise AssertionError("the model is not sharded")
    with Peak() as saving:
        staging.save_model(context, model)
    if gang.first:
        saved = context.paths.scratch / "staging" / MODEL_FOLDER
        with Peak() as checking:
            saved_model.verify(context, saved, predictions, folder / "verification")
        sizes = {
            "weights": sum(file.stat().st_size for file in base.glob("*.safetensors")),
            "saving": saving.growth,
            "checking": checking.growth,
            "peak": max(saving.growth, checking.growth),
        }
        (folder / "sizes.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main()
    leave(0)

"""Run by torchrun: the start of a head, and whether each way to load a model puts the start into its head.

Arguments: folder of the base model, result file, and JSON lists [method, ZeRO stage].
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import TypeAdapter
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from finetune_trainer.config import EvaluationSpec, Method, Training
from finetune_trainer.contract import Chosen
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.weights import whole_tensors
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training import head_start
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import join_gang
from tests.trainer.programs.truth import BATCH, CLASSIFICATION, Calm
from tests.trainer.training.contexts import FLOAT32, context_with


def main() -> None:
    """Computes the start once, then loads a model for each case."""
    base, result = Path(sys.argv[1]), Path(sys.argv[2])
    silence_libraries()
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    evaluation = EvaluationSpec(metrics=("macroF1",))
    training = Training(seed=5)
    run: Any = SimpleNamespace(evaluation=evaluation, training=training, method="Full")
    context: Context = context_with(
        config=SimpleNamespace(run=run),
        chosen=SimpleNamespace(micro_batch_size=2, micro_batch_tokens=None),
        heartbeat=Calm(),
        gang=gang,
        prepared=CLASSIFICATION.prepared,
        base=base,
        pad_id=0,
        dtypes=FLOAT32,
        task=training_task("TextClassification"),
    )
    context = context.with_head(head_start.compute(context, 0.0, 1.0))
    start = context.head
    assert start
    measured: dict[str, Any] = {
        "weights": {name: value.tolist() for name, value in start.weights.items()},
        "init": start.init.model_dump(),
        "copied": {},
    }
    for asked in map(json.loads, sys.argv[3:]):
        run.method, stage = TypeAdapter[Method](Method).validate_python(asked[0]), asked[1]
        chosen = Chosen(
            epochs=1,
            batch_size=BATCH,
            micro_batch_size=BATCH // gang.world,
            world_size=gang.world,
            learning_rate=1e-5,
            max_length=16,
            zero_stage=stage,
            total_steps=1,
        )
        with tempfile.TemporaryDirectory() as folder:
            # Trainer loads in shards for as long as these arguments exist.
            args = arguments(chosen, training, FLOAT32, folder=folder, gpus=False, steps=1)
            model = context.load_model()
            loaded = dict(whole_tensors(model))
            del args
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
        sharded = any(hasattr(weight, "ds_id") for weight in model.parameters())
        same = [
            bool((value == loaded[found]).all())
            for name, value in start.weights.items()
            for found in loaded
            if found.endswith((name, name.replace("classifier.", "classifier.modules_to_save.default.")))
        ]
        measured["copied"][json.dumps(asked)] = [sharded, same]
    if gang.first:
        result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
    leave(0)

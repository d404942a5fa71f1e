"""The training stage, top to bottom: measure the base model, train, measure the result, hand it over."""

import gc
import resource
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity, FailureClass, TrainPayload
from finetune_trainer.dataset.data import Split
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import weights
from finetune_trainer.models.model import classify, load_body, load_classifier, mean_pooled, on, quiet
from finetune_trainer.places import Places
from finetune_trainer.stage import Pulse, StageResult
from finetune_trainer.training import baseline, handover
from finetune_trainer.training.baseline import Baseline, BaselineKey
from finetune_trainer.training.evaluate import over_rows
from finetune_trainer.training.fit import tune
from finetune_trainer.training.gang import Gang, from_first, largest
from finetune_trainer.training.handover import Outcome
from finetune_trainer.training.inputs import subset
from finetune_trainer.training.metrics import Answers, Contestant
from finetune_trainer.training.record import sentence
from finetune_trainer.training.scene import Scene, set_scene

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOADED, MEASURED, TRAINED, TESTED, DONE = 2.0, 10.0, 90.0, 95.0, 100.0
"""How far the stage is, in percent, after each of its parts."""


def run(config: TrainConfig, places: Places, pulse: Pulse) -> StageResult:
    """Trains as Prepare decided; every rank runs this, rank 0 writes.

    Raises:
        StageFailure: UserConfig (GPU or weights missing), Numerical, Communication, Storage, Preempted.
    """
    began = time.monotonic()
    quiet()
    scene = set_scene(config, places, pulse)
    probe, reused = _measure_base(scene)
    tuned = tune(scene, first_percent=MEASURED, last_percent=TRAINED)
    model, logits = _test(scene)
    peak = int(largest(scene.gang, _peak_memory(scene.gang)))
    epochs = float(scene.chosen.epochs)
    if not scene.gang.first:
        return StageResult(None, "The first rank has the result.", tuned.steps, epochs)
    outcome = Outcome(model.cpu(), logits, _answers(scene, probe, logits), probe, reused, tuned)
    facts = handover.record_of(scene, outcome)
    staging = handover.stage(scene, outcome, facts, partial(scene.tell, Activity.UPLOADING, TESTED, DONE))
    gpus = scene.gang.world if scene.gang.device.type == "cuda" else 0
    payload = TrainPayload(
        best=tuned.best,
        evaluation=facts.evaluation,
        staging=staging,
        peak_memory_bytes=peak,
        gpu_seconds=round(gpus * (time.monotonic() - began)),
    )
    return StageResult(payload, sentence(facts.evaluation), tuned.steps, epochs)


def _measure_base(scene: Scene) -> tuple[Baseline, bool]:
    """Majority class and linear probe on the test rows, and whether an earlier attempt had stored them."""
    run, gang, prepared = scene.config.run, scene.gang, scene.prepared
    key = BaselineKey(
        model=scene.base_digest,
        data=scene.data_digest,
        max_length=scene.chosen.max_length,
        primary_metric=run.evaluation.primary_metric,
        seed=run.training.seed,
    )
    where = baseline.uri(run.runs, key)
    scene.tell(Activity.EVALUATING_BASELINE, LOADED, LOADED, 1.0)
    stored = None
    if gang.first and scene.store.head(where):
        stored = baseline.read(scene.store.read(where), key, len(prepared.test))
    if found := from_first(gang, stored):
        return found, True
    train = subset(prepared.train, baseline.probe_rows(len(prepared.train), run.training.seed))
    train_features, validation_features, test_features = _features(
        scene, (train, prepared.validation, prepared.test)
    )
    fitted = None
    if gang.first:
        fitted = baseline.linear_probe(
            (train_features, train.labels.astype(np.int64)),
            (validation_features, prepared.validation.labels.astype(np.int64)),
            test_features,
            majority=baseline.most_frequent(prepared.train.labels.astype(np.int64)),
            classes=len(prepared.labels),
            key=key,
            advanced=partial(scene.tell, Activity.EVALUATING_BASELINE, LOADED, MEASURED, 1.0),
        )
        scene.store.write(where, fitted.model_dump_json(by_alias=True).encode())
    measured: Baseline = from_first(gang, fitted)
    return measured, False


def _features(scene: Scene, splits: tuple[Split, ...]) -> list[npt.NDArray[np.float32]]:
    """Mean-pooled features of the base model, frozen, by all ranks together; shape [rows, hidden] each."""
    body = load_body(scene.base, scene.gang.device)
    every = sum(len(split) for split in splits)
    features, before = [], LOADED
    for split in splits:
        after = before + (MEASURED - LOADED) * len(split) / every
        features.append(
            over_rows(
                scene.gang,
                partial(mean_pooled, body),
                split,
                pad_id=scene.pad_id,
                rows_at_once=scene.rows_at_once,
                pulse=scene.pulse,
                advanced=partial(scene.tell, Activity.EVALUATING_BASELINE, before, after),
            )
        )
        before = after
    return features


def _test(scene: Scene) -> "tuple[PreTrainedModel, npt.NDArray[np.float32]]":
    """The best weights, in float32 and without DeepSpeed, on the test rows: exactly what is published."""
    # The engine, its optimizer and the gradients go first: they are the larger part of the memory.
    gc.collect()
    if scene.gang.device.type == "cuda":
        torch.cuda.empty_cache()
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    model = on(scene.gang.device, load_classifier(scene.base, scene.prepared.labels))
    weights.spread(scene.gang, model, scene.best_weights)
    logits = over_rows(
        scene.gang,
        partial(classify, model),
        scene.prepared.test,
        pad_id=scene.pad_id,
        rows_at_once=scene.rows_at_once,
        pulse=scene.pulse,
        advanced=partial(scene.tell, Activity.EVALUATING_TUNED, TRAINED, TESTED),
    )
    if spoilt := int((~np.isfinite(logits).all(axis=1)).sum()):
        raise StageFailure(
            FailureClass.NUMERICAL,
            "NonFiniteLogits",
            f"the tuned model answers {spoilt} test rows with something that is no number",
            "lower training.learningRate, or use precision Float32",
        )
    return model, logits


def _answers(scene: Scene, probe: Baseline, logits: npt.NDArray[np.float32]) -> dict[Contestant, Answers]:
    return {
        "majority": np.full(len(scene.prepared.test), probe.majority, dtype=np.int64),
        "baseline": np.array(probe.predictions, dtype=np.int64),
        "tuned": logits.argmax(axis=1),
    }


def _peak_memory(gang: Gang) -> float:
    """Bytes: of the GPU where there is one, else of this process."""
    if gang.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

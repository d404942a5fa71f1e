"""The whole training stage: real ranks, DeepSpeed, a real S3 server."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from finetune_trainer.config import Checkpoints, TrainConfig
from finetune_trainer.contract import Chosen, FailureClass, Progress, RankFile, Stage, TrainPayload
from finetune_trainer.data.batches import steps_per_epoch
from finetune_trainer.data.shards import Prepared
from finetune_trainer.paths import RECORD, Paths
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.s3 import results
from finetune_trainer.s3.manifest import read_manifest
from finetune_trainer.s3.store import Store
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.record import ClassificationFacts
from tests.trainer import forks


def chosen_for(prepared: Prepared, **values: object) -> Chosen:
    usual = {"epochs": 3, "batch_size": 8, "micro_batch_size": 2, "accumulation_steps": 2, "world_size": 2}
    given = {**usual, "learning_rate": 0.01, "max_length": 16, "zero_stage": 2, **values}
    steps = steps_per_epoch(len(prepared.train), given["batch_size"]) * given["epochs"]
    return Chosen.model_validate({**given, "total_steps": steps})


def start_ranks(config: TrainConfig, paths: Paths, uid: str) -> forks.Forked:
    """Starts both ranks of one pod."""
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    paths.config.write_text(config.model_dump_json(by_alias=True))
    return forks.Forked(
        *("finetune_trainer.pod.rank", "--root", str(paths.root)),
        ranks=config.run.world.size,
        environment={"POD_UID": uid},
    )


def ranks(config: TrainConfig, paths: Paths, uid: str) -> "subprocess.CompletedProcess[str]":
    """Both ranks of one pod, after their end."""
    return start_ranks(config, paths, uid).wait(900)


def rank_file(paths: Paths, rank: int) -> RankFile:
    return RankFile.model_validate_json((paths.ranks / f"{rank}.json").read_text())


def trained(store: Store, config: TrainConfig) -> tuple[TrainPayload, TrainingRecord]:
    message = results.find(store, config, Stage.TRAIN)
    assert message
    assert isinstance(message.payload, TrainPayload)
    return message.payload, TrainingRecord.model_validate_json(store.read(message.payload.staging + RECORD))


def test_a_preempted_training_resumes_and_ends_with_scores_that_agree_and_the_baseline_is_reused(
    given_run: Callable[..., TrainConfig],
    tiny_base: Path,
    learnable: Prepared,
    paths: Paths,
    store: Store,
) -> None:
    config = given_run(tiny_base, learnable, chosen_for(learnable))
    preempted = config.model_copy(update={"checkpoints": Checkpoints()})
    step = preempt(preempted, paths, "pod-nil-")
    check_early_end(preempted.model_copy(update={"attempt": 2, "finish": True}), step, paths, store)
    config = preempted.model_copy(update={"attempt": 3})
    ended = ranks(config, paths, "pod-one-")
    assert ended.returncode == 0, ended.stderr[-4000:]
    payload, record = trained(store, config)
    assert rank_file(paths, 1).payload is None
    first = rank_file(paths, 0)
    assert first.resumed_from_step == step
    assert first.checkpoint
    assert first.checkpoint.step == first.step
    check_progress(Progress.model_validate_json(paths.progress.read_text()), payload)
    check_scores(payload, learnable, store, config)
    check_staging(payload, record, paths, store)
    classification = ClassificationFacts.model_validate(record.task)
    assert classification.probe.reused, "the first attempt has stored the baseline"

    # A mark in the stored baseline that a new measurement would not make; the next attempt runs ZeRO-3.
    (entry,) = store.list(f"{config.run.runs}baseline/")
    stored = Probe.model_validate_json(store.read(entry.uri))
    marked = stored.model_copy(update={"predictions": (2,) * 41})
    store.write(entry.uri, marked.model_dump_json(by_alias=True).encode())
    store.delete([found.uri for found in store.list(f"{config.run.runs}attempts/train-")])
    # Without checkpoints, the fourth attempt starts at the first step.
    other = {"attempt": 4, "chosen": chosen_for(learnable, zero_stage=3), "checkpoints": None}
    again = config.model_copy(update=other)
    ended = ranks(again, paths, "pod-two-")
    assert ended.returncode == 0, ended.stderr[-4000:]
    second, second_record = trained(store, again)
    classification = ClassificationFacts.model_validate(second_record.task)
    assert classification.probe.reused
    share = float(np.mean(learnable.test.labels == 2))
    assert second.evaluation.baseline.metrics["accuracy"].value == pytest.approx(share)
    # The same rows in the same order from the same start: ZeRO-3 learns what ZeRO-2 learned.
    assert [row.training_loss for row in second_record.history] == pytest.approx(
        [row.training_loss for row in record.history], rel=1e-3
    )
    assert second.staging != payload.staging
    assert rank_file(paths, 0).resumed_from_step is None


def check_early_end(config: TrainConfig, step: int, paths: Paths, store: Store) -> None:
    """An attempt that finishes at the step of the newest checkpoint; its result is deleted afterwards."""
    ended = ranks(config, paths, "pod-end-")
    assert ended.returncode == 0, ended.stderr[-4000:]
    payload, record = trained(store, config)
    first = rank_file(paths, 0)
    assert (first.step, record.ended_early) == (step, step)
    assert first.epoch == pytest.approx(step / 13)
    assert [row.step for row in record.history] == [13, step], "the newest weights are evaluated, too"
    assert payload.best.metric == max(row.validation for row in record.history)
    assert payload.best == record.best
    check_staging(payload, record, paths, store)
    store.delete([found.uri for found in store.list(f"{config.run.runs}attempts/train-")])


def preempt(config: TrainConfig, paths: Paths, uid: str) -> int:
    """Starts an attempt, and ends the attempt in its second epoch. Returns the last step."""
    running = start_ranks(config, paths, uid)
    deadline = time.monotonic() + 300
    while not (paths.ranks / "0.json").exists() or (rank_file(paths, 0).step or 0) < 15:
        assert time.monotonic() < deadline
        assert running.poll() is None, running.wait(1).stderr[-4000:]
        time.sleep(0.02)
    os.kill(rank_file(paths, 1).pid, signal.SIGUSR1)
    ended = running.wait(300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    files = [rank_file(paths, rank) for rank in range(2)]
    assert {(file.failure, file.reason) for file in files} == {(FailureClass.PREEMPTED, "Preempted")}
    assert {file.step for file in files} == {files[0].step}
    assert files[0].checkpoint
    assert files[0].checkpoint.step == files[0].step
    return files[0].checkpoint.step


def check_progress(progress: Progress, payload: TrainPayload) -> None:
    """Every field that the ranks of Train can know is set: each field is a metric with a panel."""
    of_prepare, of_gpus, of_supervisors = {"rows", "tokens"}, {"mfu"}, {"in_place_restarts"}
    unknown = {name for name, value in progress if value is None}
    assert unknown == of_prepare | of_gpus | of_supervisors
    assert progress.step == progress.total_steps
    assert progress.slowest_rank in range(2)
    assert progress.slowest_rank_ratio
    assert progress.slowest_rank_ratio >= 1
    # The kernel counts pages of a thread in batches, and the payload has the maximum of the ranks.
    assert progress.peak_memory_bytes == pytest.approx(payload.peak_memory_bytes, rel=0.05)


def check_scores(payload: TrainPayload, prepared: Prepared, store: Store, config: TrainConfig) -> None:
    """One word gives the class away: the tuned model finds it; all figures are what scikit-learn computes."""
    evaluation = payload.evaluation
    assert evaluation.rows == 41
    assert evaluation.tuned
    assert evaluation.tuned.primary > 0.9
    assert evaluation.majority.primary < 0.3
    text = store.read(f"{config.run.runs}report/predictions.jsonl").decode()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["line"] for line in lines] == list(range(1, 42))
    truth = [line["label"] for line in lines]
    for column, scores in (
        ("majority", evaluation.majority),
        ("linearProbe", evaluation.baseline),
        ("tuned", evaluation.tuned),
    ):
        predictions = [line[column] for line in lines]
        macro = f1_score(truth, predictions, average="macro", labels=prepared.labels, zero_division=0)
        assert {name: interval.value for name, interval in scores.metrics.items()} == pytest.approx(
            {
                "accuracy": accuracy_score(truth, predictions),
                "macroF1": macro,
                "mcc": matthews_corrcoef(truth, predictions),
            }
        )
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert max(line["probabilities"], key=line["probabilities"].get) == line["tuned"]


def check_staging(payload: TrainPayload, record: TrainingRecord, paths: Paths, store: Store) -> None:
    """The folder is complete, tells no path of this machine, and the best epoch is one that was measured."""
    manifest = read_manifest(store, payload.staging)
    assert manifest
    assert {file.path for file in manifest.files} >= {"model/model.safetensors", "model/tokenizer.json"}
    assert payload.best.metric == max(row.validation for row in record.history)
    assert payload.best.step in {row.step for row in record.history}
    assert str(paths.root) not in store.read(payload.staging + "model/config.json").decode()

"""Tests of the rank without a supervisor; test_supervisor tests both together."""

import errno
import json
import os
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    Activity,
    CheckpointRef,
    FailureClass,
    Progress,
    RankFile,
    SecondsByUse,
    Stage,
)
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.pod import heartbeat_file
from finetune_trainer.pod.errors import explain, place_of, trace
from finetune_trainer.pod.evidence import evidence
from finetune_trainer.pod.heartbeat_file import FileHeartbeat

STORE = {"endpoint": "http://127.0.0.1:1"}
CONFIG = {
    "contractVersion": "1.0",
    "stage": "Cleanup",
    "attempt": 3,
    "job": {"namespace": "team", "name": "tickets", "uid": "u-1", "generation": 1},
    "run": {
        "task": "TextClassification",
        "model": {"uri": "s3://models/minilm/"},
        "dataset": {
            "train": {"uri": "s3://data/train.jsonl"},
            "validation": {"split": 0.1},
            "test": {"split": 0.1},
        },
        "evaluation": {"metrics": ["accuracy"]},
        "output": "s3://models/out/",
        "runs": "s3://models/.finetune-runs/team/u-1/",
        "stores": {"data": STORE, "model": STORE, "output": STORE},
    },
    "hangTimeoutSeconds": 600,
}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path)
    paths.config.parent.mkdir(parents=True)
    paths.config.write_text(json.dumps(CONFIG))
    return paths


@pytest.fixture
def heartbeat(paths: Paths) -> FileHeartbeat:
    return FileHeartbeat(TrainConfig.read(paths.config), paths, 0)


def rank_file(paths: Paths, rank: int = 0) -> RankFile:
    return RankFile.model_validate_json((paths.ranks / f"{rank}.json").read_bytes())


def progress(paths: Paths) -> Progress:
    return Progress.model_validate_json(paths.progress.read_bytes())


def test_a_stage_without_credentials_fails_with_class_user_config(paths: Paths) -> None:
    command = [sys.executable, "-m", "finetune_trainer.pod.rank", "--root", str(paths.root)]
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "RANK": "5"}
    )
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    file = rank_file(paths, 5)
    assert (file.failure, file.reason) == (FailureClass.USER_CONFIG, "CredentialsMissing")
    assert not paths.progress.exists()


@pytest.mark.parametrize("module", ["supervisor", "rank", "heartbeat_file", "errors", "launch"])
def test_no_large_library_is_imported_before_the_first_heartbeat(module: str) -> None:
    heavy = "{'torch', 'numpy', 'transformers', 'deepspeed', 'obstore', 'minio'}"
    program = f"import sys, finetune_trainer.pod.{module}; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_first_beat_writes_the_rank_file(paths: Paths, heartbeat: FileHeartbeat) -> None:
    assert not paths.progress.exists()
    heartbeat.beat(Activity.STARTING)
    file = rank_file(paths)
    assert (file.pid, file.activity, file.quiet_seconds) == (os.getpid(), Activity.STARTING, 600)
    assert (progress(paths).attempt, progress(paths).activity) == (3, Activity.STARTING)


def test_beats_of_the_same_activity_write_the_file_a_few_times_a_second(
    paths: Paths, heartbeat: FileHeartbeat
) -> None:
    heartbeat.beat(Activity.TRAINING, step=1)
    written = {rank_file(paths).heartbeat}
    for step in range(2, 5000):
        heartbeat.beat(Activity.TRAINING, step=step)
        written.add(heartbeat._written)
    assert len(written) < 10


def test_a_change_of_activity_is_written_at_once_with_all_unwritten_fields(
    paths: Paths, heartbeat: FileHeartbeat
) -> None:
    heartbeat.beat(Activity.TRAINING, step=1, loss=0.5)
    heartbeat.beat(Activity.TRAINING, step=2, epoch=0.25)
    assert progress(paths).step == 1
    heartbeat.beat(Activity.SAVING, quiet_seconds=1800)
    assert (progress(paths).step, progress(paths).epoch, progress(paths).loss) == (2, 0.25, 0.5)
    file = rank_file(paths)
    assert (file.activity, file.quiet_seconds, file.step) == (Activity.SAVING, 1800, 2)


def test_a_loss_that_is_not_finite_becomes_unknown_and_raises_no_error(
    paths: Paths, heartbeat: FileHeartbeat
) -> None:
    heartbeat.beat(Activity.TRAINING, step=1, loss=0.5)
    heartbeat.beat(Activity.EVALUATING, step=2, loss=float("nan"))
    assert (progress(paths).step, progress(paths).loss) == (2, None)


def test_the_time_of_a_rank_counts_by_the_use_of_its_activity(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now)
    monkeypatch.setattr(heartbeat_file, "time", clock)
    train = TrainConfig.read(paths.config).model_copy(update={"stage": Stage.TRAIN})
    heartbeat = FileHeartbeat(train, paths, 0)
    for activity, seconds in (
        (Activity.STARTING, 5.5),
        (Activity.RENDEZVOUS, 100),
        (Activity.LOADING, 20.5),
        (Activity.EVALUATING_BASELINE, 30),
        (Activity.TRAINING, 1000.7),
        (Activity.TRAINING, 1000.7),
        (Activity.SAVING, 3),
        (Activity.EVALUATING, 40),
        (Activity.UPLOADING, 60),
    ):
        heartbeat.beat(activity)
        now += seconds
    heartbeat.beat(Activity.DONE)
    expected = SecondsByUse(startup=26, training=2001, evaluation=70, checkpoint=3)
    assert progress(paths).seconds == rank_file(paths).seconds == expected
    heartbeat.beat(Activity.TRAINING)
    now += 9
    heartbeat.end(failure=FailureClass.SUCCESS)
    assert rank_file(paths).seconds == expected.model_copy(update={"training": 2010})


def test_only_train_reports_its_time_by_use(paths: Paths, heartbeat: FileHeartbeat) -> None:
    heartbeat.beat(Activity.STARTING)
    assert progress(paths).seconds is rank_file(paths).seconds is None


def test_the_newest_checkpoint_is_in_the_rank_file_and_in_the_progress(
    paths: Paths, heartbeat: FileHeartbeat
) -> None:
    ref = CheckpointRef(step=40, digest="sha256:" + "1" * 64)
    heartbeat.beat(Activity.TRAINING, step=41)
    heartbeat.beat(Activity.SAVING, checkpoint=ref, checkpoint_step=40, checkpoint_time=9.0)
    heartbeat.beat(Activity.TRAINING, resumed_from_step=30, checkpoint_pause_seconds=0.5)
    file = rank_file(paths)
    assert (file.checkpoint, file.resumed_from_step) == (ref, 30)
    found = progress(paths)
    assert (found.checkpoint_step, found.checkpoint_time, found.checkpoint_pause_seconds) == (40, 9.0, 0.5)
    assert found.resumed_from_step == 30


def test_an_unknown_progress_field_raises_type_error(heartbeat: FileHeartbeat) -> None:
    with pytest.raises(TypeError, match="los"):
        heartbeat.beat(Activity.TRAINING, los=1)


def test_only_global_rank_0_writes_progress(paths: Paths) -> None:
    FileHeartbeat(TrainConfig.read(paths.config), paths, 1).beat(Activity.TRAINING, step=1)
    assert rank_file(paths, 1).step == 1
    assert not paths.progress.exists()


def test_only_the_first_outcome_is_recorded(paths: Paths, heartbeat: FileHeartbeat) -> None:
    heartbeat.beat(Activity.TRAINING, step=4, epoch=0.5)
    heartbeat.end(failure=FailureClass.NUMERICAL, reason="LossNotFinite", message="step 4")
    heartbeat.end(failure=FailureClass.INTERNAL, reason="Later", message="later")
    file = rank_file(paths)
    assert (file.failure, file.reason, file.step, file.epoch) == (
        FailureClass.NUMERICAL,
        "LossNotFinite",
        4,
        0.5,
    )


def _gloo_error() -> RuntimeError:
    return RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")),
        (OSError(errno.ENOMEM, "no"), (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted"),
        ),
        (torch.OutOfMemoryError("CUDA"), (FailureClass.OUT_OF_MEMORY, "GpuMemoryExhausted")),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            (FailureClass.OUT_OF_MEMORY, "GpuMemoryExhausted"),
        ),
        (torch.distributed.DistNetworkError("x"), (FailureClass.COMMUNICATION, "PeerLost")),
        (torch.distributed.DistBackendError("NCCL error"), (FailureClass.COMMUNICATION, "PeerLost")),
        (_gloo_error(), (FailureClass.COMMUNICATION, "PeerLost")),
        (OSError(errno.ENOSPC, "full"), (FailureClass.INTERNAL, "ScratchFull")),
        (RuntimeError("shape mismatch"), (FailureClass.INTERNAL, "UnexpectedError")),
        (ValueError("Connection closed by peer"), (FailureClass.INTERNAL, "UnexpectedError")),
    ],
)
def test_an_unexpected_error_gets_a_class_and_a_reason(
    error: Exception, expected: tuple[FailureClass, str]
) -> None:
    failure = explain(error)
    assert (failure.failure, failure.reason) == expected


def test_an_allocation_failure_of_torch_on_the_host_is_host_memory_exhausted() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8)
    assert explain(raised.value).reason == "HostMemoryExhausted"


def quoting(text: str) -> ValueError:
    """A ValueError whose text, and the text of its cause, contain `text`."""

    def fail() -> None:
        try:
            {}[text]
        except KeyError as error:
            raise ValueError(f"cannot read {text}") from error

    with pytest.raises(ValueError, match="cannot read") as raised:
        fail()
    return raised.value


def test_the_message_of_an_error_has_type_and_line_and_quotes_no_row() -> None:
    text = explain(quoting("my\nsecret")).message
    assert text.startswith("ValueError (test_rank.py, line ")


def failing_in_a_library() -> Exception:
    """An error that a library raises below a call of the trainer."""
    with pytest.raises(ValueError, match="config file") as raised:
        TrainConfig.read(Path(__file__))
    return raised.value


def test_the_place_of_an_error_is_the_last_line_of_the_trainer_below_it() -> None:
    error = failing_in_a_library()
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.endswith("finetune_trainer/config.py")]
    assert place_of(error) == f"config.py:{ours[-1].lineno}"


def test_the_place_of_an_error_elsewhere_is_its_last_line() -> None:
    line = traceback.extract_tb(quoting("x").__traceback__)[-1].lineno
    assert place_of(quoting("x")) == f"test_rank.py:{line}"
    assert place_of(ValueError()) is None


def test_a_rank_that_fails_says_where(paths: Paths) -> None:
    command = [sys.executable, "-m", "finetune_trainer.pod.rank", "--root", str(paths.root)]
    subprocess.run(command, check=False, capture_output=True, env={**os.environ, "RANK": "0"})
    place = rank_file(paths).place
    assert place
    assert re.fullmatch(r"s3/credentials\.py:\d+", place)


def test_a_traceback_has_all_causes_and_quotes_no_row() -> None:
    text = trace(quoting("my secret"))
    assert (
        text.index("KeyError\n") < text.index("caused the following exception") < text.index("ValueError\n")
    )
    assert text.count("Traceback (most recent call last):") == 2
    assert 'raise ValueError(f"cannot read {text}") from error' in text
    assert "my secret" not in text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            StageFailure(FailureClass.STORAGE, "StorageFull", "no room"),
            "StageFailure: StorageFull: no room",
        ),
        (OSError(errno.ENOSPC, "my secret"), "OSError: No space left on device"),
        (OSError("my secret"), "OSError"),
        (RuntimeError("my secret: Broken pipe, my secret"), "RuntimeError: Broken pipe"),
        (_gloo_error(), "RuntimeError: gloo/gloo/transport/tcp/pair.cc:553] Connection closed"),
        (UnicodeDecodeError("utf-8", b"my secret\xff", 9, 10, "invalid"), "UnicodeDecodeError"),
    ],
)
def test_a_traceback_includes_only_texts_of_known_origin(error: Exception, text: str) -> None:
    assert trace(error).splitlines()[-1] == text


def test_the_full_text_of_an_error_is_kept_as_evidence(paths: Paths) -> None:
    paths.config.write_text(
        json.dumps(CONFIG | {"stage": "Prepare", "run": CONFIG["run"] | {"runs": "s3://a"}})
    )
    command = [sys.executable, "-m", "finetune_trainer.pod.rank", "--root", str(paths.root)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    kept = (paths.errors / "0.txt").read_text()
    assert rank_file(paths).message in kept
    assert paths.errors / "0.txt" in evidence(paths)
    assert ended.stderr.count("Traceback") == kept.count("Traceback")

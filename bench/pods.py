"""Trainer pods as processes of this machine, each a supervisor with its ranks, and a real S3 server."""

import atexit
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from devcluster import processes
from devcluster.controlplane import free_ports
from devcluster.objectstore import ObjectStore
from devcluster.places import DevclusterError
from finetune_trainer.config import (
    Checkpoints,
    Dataset,
    EvaluationSpec,
    HeldOut,
    JobRef,
    Method,
    ModelSource,
    Rendezvous,
    Run,
    StoreAccess,
    StoreRole,
    Stores,
    TrainConfig,
    Training,
    TrainSplit,
    World,
)
from finetune_trainer.contract import (
    METRICS,
    PRIMARY_METRIC,
    FailureClass,
    PreparePayload,
    RankFile,
    Stage,
    Task,
    TerminationMessage,
)
from finetune_trainer.paths import Paths
from finetune_trainer.pod.processes import descendants
from finetune_trainer.s3.store import Store, open_store

BUCKET = "bench"
STAGE_SECONDS = 900.0
"""Time limit of a stage, in seconds."""
_LOOK_SECONDS = 0.02
_LOG_CHARS = 3000


@dataclass(frozen=True)
class Site:
    """The S3 server, and the folder of the pods."""

    server: ObjectStore
    folder: Path
    endpoint: str | None = None
    """URL of a proxy without TLS in front of the server; None: the server itself."""

    @property
    def access(self) -> StoreAccess:
        """How pods reach the server."""
        return StoreAccess(endpoint=self.endpoint or self.server.endpoint, ca_bundle=not self.endpoint)

    def make_bucket(self) -> None:
        """Creates the bucket of the benchmark."""
        (self.server.data / BUCKET).mkdir()

    def paths(self, name: str) -> Paths:
        """The folders of a pod, with credentials and CA bundles.

        Args:
            name: name of the pod.
        """
        paths = Paths(self.folder / name)
        for role in get_args(StoreRole):
            keys, bundle = paths.credentials(role), paths.ca_bundle(role)
            keys.mkdir(parents=True, exist_ok=True)
            (keys / "accessKey").write_text(self.server.access_key)
            (keys / "secretKey").write_text(self.server.secret_key)
            if self.server.ca_file:
                bundle.parent.mkdir(parents=True, exist_ok=True)
                bundle.write_bytes(self.server.ca_file.read_bytes())
        return paths

    def store(self) -> Store:
        """A client of the server itself."""
        access = StoreAccess(endpoint=self.server.endpoint, ca_bundle=self.server.ca_file is not None)
        return open_store(access, "output", self.paths("client"))


class Pod:
    """A pod: the supervisor in a process, as the trainer image starts it.

    Args:
        site: the S3 server.
        name: name of the pod, unique.
        config: the config of the stage.
        environment: further environment variables.
    """

    def __init__(self, site: Site, name: str, config: TrainConfig, **environment: str) -> None:
        self.name, self.config = name, config
        self.paths = site.paths(name)
        self.log = site.folder / f"{name}.log"
        self.paths.config.parent.mkdir(parents=True, exist_ok=True)
        self.paths.config.write_text(config.model_dump_json(by_alias=True))
        self.paths.progress_key.write_text(secrets.token_hex(16))
        command = [sys.executable, "-m", "finetune_trainer", "--root", str(self.paths.root), "--port", "0"]
        own = {"POD_UID": secrets.token_hex(8), "HF_HUB_OFFLINE": "1"}
        self.log.unlink(missing_ok=True)
        # The trainer image starts the supervisor with SIGTERM blocked, see finetune_trainer.__main__.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self.process = processes.start_owned(command, self.log, own | environment)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        atexit.register(self.kill)

    @property
    def running(self) -> bool:
        """Whether the supervisor runs."""
        return self.process.poll() is None

    def rank_file(self, rank: int = 0) -> RankFile | None:
        """The state of a rank; None before the rank has written its first state."""
        try:
            return RankFile.model_validate_json((self.paths.ranks / f"{rank}.json").read_bytes())
        except FileNotFoundError:
            return None

    def await_rank(self, holds: Callable[[RankFile], object], rank: int = 0) -> RankFile:
        """Waits until the state of a rank meets a condition.

        Args:
            holds: the condition.
            rank: global rank.

        Raises:
            DevclusterError: the pod ended before, or the condition was not met in STAGE_SECONDS.
        """
        deadline = time.monotonic() + STAGE_SECONDS
        while time.monotonic() < deadline:
            ended = not self.running
            file = self.rank_file(rank)
            if file and holds(file):
                return file
            if ended:
                break
            time.sleep(_LOOK_SECONDS)
        raise DevclusterError(f"pod {self.name} did not come so far: {self.last_log()}")

    def await_end(self) -> TerminationMessage | None:
        """Waits for the end of the pod. Returns its termination message; None if the pod left none.

        Raises:
            DevclusterError: the pod did not end in STAGE_SECONDS.
        """
        try:
            self.process.wait(STAGE_SECONDS)
        except subprocess.TimeoutExpired:
            raise DevclusterError(f"pod {self.name} does not end: {self.last_log()}") from None
        try:
            return TerminationMessage.decode(self.paths.termination_log.read_bytes())
        except FileNotFoundError:
            return None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the supervisor."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kills the supervisor and, as the kernel does after the death of PID 1, all processes below it."""
        below = descendants(self.process.pid) if self.running else ()
        self.process.kill()
        processes.kill(below)
        self.process.wait()

    def last_log(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-_LOG_CHARS:]

    def remove(self) -> None:
        """Kills the pod and deletes its folder, as the kubelet deletes the volumes of a pod."""
        self.kill()
        shutil.rmtree(self.paths.root)


def make_run(
    site: Site,
    uid: str,
    *,
    task: Task,
    model: str,
    data: str,
    method: Method,
    zero_stage: int,
    processes_per_node: int,
    training: Training,
) -> TrainConfig:
    """The config of Prepare of a job.

    Args:
        site: the S3 server.
        uid: uid and name of the job.
        task: the task.
        model: URI of the base model.
        data: URI of the rows; one fifth each become validation and test rows.
        method: the training method.
        zero_stage: ZeRO stage.
        processes_per_node: number of ranks.
        training: the hyperparameters.
    """
    run = Run(
        task=task,
        model=ModelSource(uri=model),
        dataset=Dataset(train=TrainSplit(uri=data), validation=HeldOut(split=0.2), test=HeldOut(split=0.2)),
        method=method,
        training=training,
        zero_stage=zero_stage,
        world=World(processes_per_node=processes_per_node),
        evaluation=EvaluationSpec(metrics=METRICS[task], primary_metric=PRIMARY_METRIC[task]),
        output=f"s3://{BUCKET}/models/bench/{uid}/tuned/",
        runs=f"s3://{BUCKET}/.finetune-runs/bench/{uid}/",
        stores=Stores(data=site.access, model=site.access, output=site.access),
    )
    job = JobRef(namespace="bench", name=uid, uid=uid, generation=1)
    return TrainConfig(stage=Stage.PREPARE, attempt=1, job=job, run=run)


def prepare(site: Site, config: TrainConfig) -> TrainConfig:
    """Runs Prepare in a pod. Returns the config of the first attempt of Train.

    Raises:
        DevclusterError: Prepare failed.
    """
    pod = Pod(site, f"{config.job.name}-prepare", config)
    message = succeed(pod)
    pod.remove()
    if not isinstance(message.payload, PreparePayload):
        raise DevclusterError(f"Prepare of {config.job.name} has no result")
    return config.model_copy(
        update={
            "stage": Stage.TRAIN,
            "chosen": message.payload.chosen,
            "prepared": message.payload.data_digest,
            "checkpoints": Checkpoints(),
        }
    )


def train(site: Site, config: TrainConfig, attempt: int, **environment: str) -> Pod:
    """Starts an attempt of Train in a new pod.

    Args:
        site: the S3 server.
        config: the config of Train.
        attempt: number of the attempt.
        environment: further environment variables.
    """
    meeting = Rendezvous(master_port=free_ports(1)[0])
    own = config.model_copy(update={"attempt": attempt, "rendezvous": meeting})
    return Pod(site, f"{config.job.name}-train-{attempt}", own, **environment)


def succeed(pod: Pod) -> TerminationMessage:
    """Waits for the success of a pod.

    Raises:
        DevclusterError: the pod failed.
    """
    message = pod.await_end()
    if message is None or message.failure is not FailureClass.SUCCESS:
        told = f"{message.reason}: {message.message}" if message else pod.last_log()
        raise DevclusterError(f"pod {pod.name} failed: {told}")
    return message

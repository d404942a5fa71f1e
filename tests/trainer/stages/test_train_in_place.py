"""A whole training whose rank is killed and starts again in the same pod."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from finetune_trainer.config import Checkpoints, Rendezvous, TrainConfig
from finetune_trainer.contract import Stage, TerminationMessage, TrainPayload
from finetune_trainer.data.shards import Prepared
from finetune_trainer.paths import MODEL_FOLDER, Paths
from finetune_trainer.pod.processes import descendants
from finetune_trainer.s3 import results
from finetune_trainer.s3.store import Store
from tests.trainer.stages.test_train import chosen_for, ranks

KILLED_ONCE = Path(__file__).parents[1] / "programs" / "killed_once.py"
UID = "pod-one-"


def staged_model(store: Store, config: TrainConfig) -> dict[str, bytes]:
    """The files of the tuned model with weights."""
    message = results.find(store, config, Stage.TRAIN)
    assert message
    assert isinstance(message.payload, TrainPayload)
    folder = f"{message.payload.staging}{MODEL_FOLDER}/"
    entries = [entry.uri for entry in store.list(folder) if entry.uri.endswith(".safetensors")]
    return {uri.removeprefix(folder): store.read(uri) for uri in entries}


def run_pod(config: TrainConfig, paths: Paths) -> TerminationMessage:
    """Runs the pod until its end."""
    paths.config.write_text(config.model_dump_json(by_alias=True))
    repository = str(Path(__file__).parents[3])
    environment = {**os.environ, "POD_UID": UID, "OMP_NUM_THREADS": "1", "PYTHONPATH": repository}
    with (paths.root / "log").open("w") as log:
        pod = subprocess.Popen(
            [sys.executable, str(KILLED_ONCE), "supervise", str(paths.root)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        pod.wait(600)
    finally:
        for pid in (pod.pid, *descendants(pod.pid)) if pod.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        pod.wait()
    assert pod.returncode == 0, (paths.root / "log").read_text()[-4000:]
    return TerminationMessage.decode(paths.termination_log.read_bytes())


def test_a_killed_rank_resumes_in_its_pod_and_the_model_equals_that_of_an_uninterrupted_training(
    given_run: Callable[..., TrainConfig], tiny_base: Path, learnable: Prepared, paths: Paths, store: Store
) -> None:
    chosen = chosen_for(learnable, world_size=1, accumulation_steps=4, zero_stage=0)
    config = given_run(tiny_base, learnable, chosen).model_copy(update={"checkpoints": Checkpoints()})
    ended = ranks(config, paths, UID)
    assert ended.returncode == 0, ended.stderr[-4000:]
    expected = staged_model(store, config)
    assert expected
    runs = config.run.runs
    for folder in ("attempts/train-", "checkpoints/", "staging/"):
        store.delete([entry.uri for entry in store.list(f"{runs}{folder}")])

    with socket.create_server(("127.0.0.1", 0)) as free:
        rendezvous = Rendezvous(master_port=free.getsockname()[1])
    config = config.model_copy(update={"rendezvous": rendezvous, "in_place_restarts": 1})
    message = run_pod(config, paths)
    assert message.in_place_restarts
    assert (message.in_place_restarts.count, message.in_place_restarts.reason) == (1, "RankKilled")
    assert message.resumed_from_step == 13
    assert message.result
    assert message.result.uri == f"{runs}attempts/train-1-{UID}-1/result.json"
    stored = {entry.uri for entry in store.list(f"{runs}attempts/train-1-{UID}/")}
    assert f"{runs}attempts/train-1-{UID}/evidence/ranks/0.json" in stored
    assert staged_model(store, config) == expected

"""`python -m bench.checkpoint`: pause, upload, load and goodput of the checkpoints of Train."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from bench.checkpoint import table
from bench.checkpoint.figures import Killed, Measured
from bench.checkpoint.rows import make_rows
from bench.machine import QUIET_LOAD, Machine, await_quiet, this_machine
from bench.pods import BUCKET, Site, make_run, prepare, train
from devcluster.controlplane import free_ports
from devcluster.objectstore import object_store
from devcluster.places import REPOSITORY, DevclusterError, write_whole
from devcluster.progress import say, step
from finetune_trainer.config import Checkpoints, Lora, TrainConfig, Training
from finetune_trainer.pod.launch import MALLOC

RESULTS = REPOSITORY / "bench/results"
ROWS = 200
_EPOCHS = 100
_SECONDS_BETWEEN_CHECKPOINTS = 5
"""Interval of the training that is killed."""
_LOG_CHARS = 2000
Kind = Literal["Full", "LoRA"]


class Report(BaseModel, frozen=True):
    """A whole benchmark."""

    machine: Machine
    began: str
    load: float
    """Load average of the machine before the benchmark."""
    parameters: int
    methods: tuple[Measured, ...]


def main() -> int:
    """Measures, prints the tables, and writes the figures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoint", description=__doc__)
    parser.add_argument("--parameters", type=int, default=300_000_000, help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", choices=("Full", "LoRA"), default=("Full", "LoRA"))
    parser.add_argument("--rounds", type=int, default=3, help="measurements (default: %(default)s)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="of a process (default: %(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=60,
        metavar="SECONDS",
        help="time limit of the wait for a quiet machine (default: %(default)s)",
    )
    arguments = parser.parse_args()
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    load = await_quiet(arguments.patience)
    try:
        with tempfile.TemporaryDirectory() as scratch, object_store(Path(scratch) / "s3") as server:
            site = Site(server, Path(scratch) / "pods")
            site.make_bucket()
            base = make_inputs(site, arguments.parameters)
            methods = tuple(measure(site, base, kind, arguments) for kind in arguments.methods)
    except DevclusterError as error:
        say(f"error: {error}")
        return 1
    report = Report(
        machine=this_machine(), began=began, load=load, parameters=arguments.parameters, methods=methods
    )
    name = f"checkpoint-{began.replace(':', '')}.json"
    write_whole(RESULTS / name, report.model_dump_json(indent=1))
    print(f"{report.machine}.\n")
    if load >= QUIET_LOAD:
        print(f"The machine was not quiet before: load average {load:.1f}.\n")
    print("\n\n".join(map(table.rendered, methods)))
    say(f"figures: {(RESULTS / name).relative_to(REPOSITORY)}")
    return 0


def make_inputs(site: Site, parameters: int) -> Path:
    """Makes and uploads the base model and the rows. Returns the folder of the base model."""
    folder = site.folder / "base"
    folder.mkdir(parents=True)
    with step(f"making a model of {parameters:,} parameters"):
        _run("model", str(folder), str(parameters))
    store = site.store()
    with step("uploading the model"):
        for path in folder.iterdir():
            store.upload(path, f"s3://{BUCKET}/base/{path.name}")
        store.write(f"s3://{BUCKET}/rows.jsonl", make_rows(ROWS))
    return folder


def measure(site: Site, base: Path, kind: Kind, arguments: argparse.Namespace) -> Measured:
    """Measures one method.

    Args:
        site: the S3 server.
        base: folder of the base model.
        kind: the method.
        arguments: the arguments of the command.

    Raises:
        DevclusterError: a process failed.
    """
    rounds, threads = arguments.rounds, {"OMP_NUM_THREADS": str(arguments.threads)}
    config = make_run(
        site,
        kind.lower(),
        task="TextClassification",
        model=f"s3://{BUCKET}/base",
        data=f"s3://{BUCKET}/rows.jsonl",
        method=Lora(rank=16) if kind == "LoRA" else "Full",
        zero_stage=0,
        processes_per_node=1,
        training=Training(
            epochs=_EPOCHS, batch_size=4, micro_batch_size=4, learning_rate=1e-5, head_init="Random"
        ),
    )
    with step(f"{kind}: Prepare"):
        config = prepare(site, config)
    with step(f"{kind}: checkpoints of the Trainer of transformers"):
        plain = _measure_plain(site, base, kind, rounds, threads)
    with step(f"{kind}: pauses and uploads"):
        saving = _measure_rank(site, config, "saving", rounds, threads)
    with step(f"{kind}: loads"):
        loading = _measure_rank(site, config, "loading", rounds, threads)
    store = site.store()
    store.clear(f"{config.run.runs}checkpoints/")
    with step(f"{kind}: a killed training"):
        killed = measure_kill(site, config, threads)
    store.clear(config.run.runs)
    return Measured(
        method=kind,
        trained=saving["trained"],
        size=saving["bytes"],
        first_pause=saving["firstPause"],
        pause=saving["pause"],
        clone=saving["clone"],
        copy_again=saving["copy"],
        plain=plain["seconds"],
        plain_size=plain["bytes"],
        upload=saving["upload"],
        clients=saving["clients"],
        load=loading["load"],
        raw=loading["raw"],
        step=saving["steps"],
        busy_steps=saving["busySteps"],
        killed=killed,
    )


def measure_kill(site: Site, config: TrainConfig, threads: Mapping[str, str]) -> Killed:
    """Kills the rank of a training pod after a checkpoint, and resumes in a new pod.

    Args:
        site: the S3 server.
        config: the config of Train.
        threads: environment variables with the number of threads.

    Raises:
        DevclusterError: a pod failed.
    """
    often = Checkpoints(every_seconds=_SECONDS_BETWEEN_CHECKPOINTS, keep=1)
    config = config.model_copy(update={"checkpoints": often})
    first = train(site, config, 1, **threads)
    file = first.await_rank(lambda file: file.checkpoint and (file.step or 0) > file.checkpoint.step)
    killed = time.monotonic()
    os.kill(file.pid, signal.SIGKILL)
    first.await_end()
    reached = ((last := first.rank_file()) and last.step) or 0
    second = train(site, config, 2, **threads)
    resumed = second.await_rank(
        lambda file: file.resumed_from_step is not None and (file.step or 0) > file.resumed_from_step
    )
    recovery = time.monotonic() - killed
    for pod in (first, second):
        pod.remove()
    return Killed(recovery=recovery, lost_steps=max(0, reached - (resumed.resumed_from_step or 0)))


def _measure_rank(site: Site, config: TrainConfig, what: str, rounds: int, threads: Mapping[str, str]) -> Any:
    """Runs bench.checkpoint.worker as the only rank of a gang, with the environment of a Train pod."""
    paths = site.paths(f"{config.job.name}-{what}")
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    paths.config.write_text(config.model_dump_json(by_alias=True))
    result = paths.root / "result.json"
    (port,) = free_ports(1)
    gang = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    _run("worker", what, str(paths.root), str(result), str(rounds), **gang, **meeting, **threads, **MALLOC)
    found = json.loads(result.read_text())
    shutil.rmtree(paths.root)
    return found


def _measure_plain(site: Site, base: Path, kind: Kind, rounds: int, threads: Mapping[str, str]) -> Any:
    folder = site.folder / "plain"
    result = folder / "result.json"
    folder.mkdir()
    _run("plain", str(base), kind, str(folder / "checkpoints"), str(result), str(rounds), **threads)
    found = json.loads(result.read_text())
    shutil.rmtree(folder)
    return found


def _run(module: str, *arguments: str, **environment: str) -> None:
    """Runs a module of this benchmark in a process of its own.

    Raises:
        DevclusterError: the process failed.
    """
    command = [sys.executable, "-m", f"bench.checkpoint.{module}", *arguments]
    offline = {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(  # noqa: S603 - our own program
        command,
        cwd=REPOSITORY,
        env=os.environ | offline | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise DevclusterError(f"bench.checkpoint.{module} failed: {ended.stderr[-_LOG_CHARS:]}")


if __name__ == "__main__":
    sys.exit(main())

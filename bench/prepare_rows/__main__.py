"""`python -m bench.prepare_rows`: Prepare of many rows in each file format, under a memory limit."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from bench.machine import this_machine
from bench.prepare_rows import rows
from devcluster.objectstore import ObjectStore, object_store
from devcluster.places import REPOSITORY
from devcluster.progress import step
from finetune_trainer.config import StoreAccess, StoreRole, TrainConfig
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store

TEXTS = REPOSITORY / "examples/data/debian-sections/train.jsonl"
MIB = 1024 * 1024
_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measured:
    """One run of Prepare."""

    format: str
    megabytes: float
    seconds: float
    peak_mib: float
    """Most resident memory of the stage and its processes together, file pages excluded."""
    stage: dict[str, Any]
    """What the stage printed; see bench.prepare_rows.stage."""


def main() -> int:
    """Measures and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.prepare_rows", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--formats", nargs="+", choices=rows.FORMATS, default=rows.FORMATS)
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, object_store(Path(scratch) / "s3") as server:
        folder = Path(scratch)
        with step("making the model"):
            _run("model", str(folder / "model"), str(TEXTS))
        paths = _paths(folder, server)
        store = _store(server, paths)
        for path in (folder / "model").iterdir():
            store.upload(path, f"s3://bench/model/{path.name}")
        measured = [
            _measured(name, arguments.rows, arguments.memory, folder, paths, server, store)
            for name in arguments.formats
        ]
    print(_table(measured, arguments.rows))
    return 0


def _measured(
    name: str, count: int, memory: int, folder: Path, paths: Paths, server: ObjectStore, store: Store
) -> Measured:
    path = folder / f"train.{name}"
    with step(f"writing {count:,} rows as {name}"):
        rows.write(path, TEXTS, count)
        megabytes = path.stat().st_size / 1e6
        store.upload(path, f"s3://bench/data/{path.name}")
        path.unlink()
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    paths.config.write_text(_config(server, path.name).model_dump_json(by_alias=True))
    with step(f"preparing {path.name}"):
        began = time.monotonic()
        command = [sys.executable, "-m", "bench.prepare_rows.stage", str(paths.root), str(memory * MIB)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)  # noqa: S603
        peak = 0
        with process:
            assert process.stdout is not None  # noqa: S101 - for mypy
            while process.poll() is None:
                peak = max(peak, sum(map(_resident, _tree(process.pid))))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SAMPLE_SECONDS)
            told = process.stdout.read()
        seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"Prepare of {path.name} ended with {process.returncode}")
    return Measured(name, megabytes, seconds, peak / MIB, json.loads(told))


def _tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    with suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                for child in children.read_text().split():
                    yield from _tree(int(child))


def _resident(pid: int) -> int:
    """Bytes of anonymous memory of a process; pages of files are the kernel's to take back."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def _config(server: ObjectStore, data: str) -> TrainConfig:
    access = StoreAccess(endpoint=server.endpoint, ca_bundle=True).model_dump(by_alias=True)
    run = {
        "task": "TextClassification",
        "model": {"uri": "s3://bench/model"},
        "dataset": {
            "train": {"uri": f"s3://bench/data/{data}"},
            "validation": {"split": 0.05},
            "test": {"split": 0.05},
        },
        "training": {},
        "evaluation": {"metrics": ["accuracy", "macroF1"]},
        "output": f"s3://bench/tuned/{data}/",
        "runs": f"s3://bench/runs/{data}/",
        "stores": {"data": access, "model": access, "output": access},
    }
    job = {"namespace": "bench", "name": "prepare", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e"}
    return TrainConfig.model_validate(
        {
            "contractVersion": "1.0",
            "stage": "Prepare",
            "attempt": 1,
            "job": {**job, "generation": 1},
            "run": run,
        }
    )


def _paths(folder: Path, server: ObjectStore) -> Paths:
    paths = Paths(folder / "root")
    assert server.ca_file is not None  # noqa: S101 - for mypy
    for role in get_args(StoreRole):
        paths.credentials(role).mkdir(parents=True)
        (paths.credentials(role) / "accessKey").write_text(server.access_key)
        (paths.credentials(role) / "secretKey").write_text(server.secret_key)
        paths.ca_bundle(role).parent.mkdir(parents=True)
        paths.ca_bundle(role).write_bytes(server.ca_file.read_bytes())
    return paths


def _store(server: ObjectStore, paths: Paths) -> Store:
    (server.data / "bench").mkdir()
    return open_store(StoreAccess(endpoint=server.endpoint, ca_bundle=True), "output", paths)


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"bench.prepare_rows.{module}", *arguments]
    subprocess.run(command, cwd=REPOSITORY, check=True)  # noqa: S603


def _table(measured: list[Measured], count: int) -> str:
    lines = [
        f"{count:,} rows; {this_machine()}",
        "",
        "| format | file, MB | seconds | read | tokenise | store | CPU, s | peak, MiB | silence, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in measured:
        parts = [f"{one.stage[name]:.0f}" for name in ("read", "tokenised", "stored")]
        cells = [
            one.format,
            f"{one.megabytes:.0f}",
            f"{one.seconds:.0f}",
            *parts,
            f"{one.stage['cpu']:.0f}",
            f"{one.peak_mib:.0f}",
            f"{one.stage['silence']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

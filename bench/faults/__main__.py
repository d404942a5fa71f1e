"""`python -m bench.faults`: faults in real trainings on this machine, with a real S3 server."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.faults.drill import Drill, run_reference
from bench.faults.faults import FAULTS, Fault, stop_at_random_moments
from bench.faults.results import Result, read_result
from bench.faults.scenarios import SCENARIOS, STOPPED, Scenario
from bench.faults.table import Row, rendered
from bench.machine import this_machine
from bench.pods import BUCKET, Site, make_run, prepare
from devcluster.objectstore import object_store
from devcluster.places import REPOSITORY, DevclusterError, write_whole
from devcluster.progress import say, step
from finetune_trainer.config import TrainConfig
from tests.trainer.storeproxy import StoreProxy

RESULTS = REPOSITORY / "bench/results"
_SHOWN_CHARS = 300


def main() -> int:
    """Injects the faults, prints the table, and writes the figures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    names = [scenario.name for scenario in (*SCENARIOS, *STOPPED)]
    parser.add_argument("--scenarios", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument(
        "--faults", nargs="+", metavar="TEXT", default=[""], help="texts in the names of faults; default: all"
    )
    parser.add_argument(
        "--moments",
        type=int,
        default=20,
        help="random moments of SIGTERM in each of the scenarios stop-... (default: %(default)s)",
    )
    arguments = parser.parse_args()
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stops = Fault(f"SIGTERM at {arguments.moments} random moments", stop_at_random_moments(arguments.moments))
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        object_store(Path(scratch) / "s3") as server,
        StoreProxy(server) as proxy,
    ):
        site = Site(server, Path(scratch) / "pods", proxy.endpoint)
        site.make_bucket()
        upload_models(site)
        for scenario in (*SCENARIOS, *STOPPED):
            faults = (stops,) if scenario in STOPPED else FAULTS
            selected = [fault for fault in faults if any(text in fault.name for text in arguments.faults)]
            if scenario.name not in arguments.scenarios or not selected:
                continue
            for row in run_scenario(site, proxy, scenario, selected):
                rows.append(row)
                say(f"  {row.outcome}; {'; '.join(row.problems) or 'all checks passed'}")
    name = f"faults-{began.replace(':', '')}.json"
    document = {"machine": this_machine().model_dump(), "rows": [row.model_dump() for row in rows]}
    write_whole(RESULTS / name, json.dumps(document, indent=1))
    print(f"{this_machine()}.\n\n{rendered(rows)}")
    say(f"figures: {(RESULTS / name).relative_to(REPOSITORY)}")
    return int(any(row.problems for row in rows))


def upload_models(site: Site) -> None:
    """Makes and uploads the base models."""
    folder, store = site.folder / "models", site.store()
    folder.mkdir(parents=True, exist_ok=True)
    with step("making the models"):
        program = [sys.executable, "-m", "bench.faults.models", str(folder)]
        ended = subprocess.run(  # noqa: S603 - our own program
            program, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
    if ended.returncode:
        raise DevclusterError(f"bench.faults.models failed: {ended.stderr[-_SHOWN_CHARS:]}")
    for path in folder.glob("*/*"):
        store.upload(path, f"s3://{BUCKET}/base/{path.relative_to(folder)}")


def run_scenario(site: Site, proxy: StoreProxy, scenario: Scenario, faults: Sequence[Fault]) -> Iterator[Row]:
    """Prepares a training, runs it without faults, and then with each fault.

    Args:
        site: the S3 server, behind the proxy.
        proxy: the proxy.
        scenario: the training.
        faults: the faults.
    """
    store = site.store()
    with step(f"{scenario}: Prepare"):
        config = prepare_scenario(site, scenario)
    kept = {entry.uri: store.read(entry.uri) for entry in store.list(config.run.runs)}
    with step(f"{scenario}: without faults"):
        drill = Drill(site, proxy, scenario, config)
        expected = read_result(store, run_reference(drill))
        drill.clean()
    for fault in faults:
        for uri, content in kept.items():
            store.write(uri, content)
        with step(f"{scenario}: {fault.name}"):
            yield inject(Drill(site, proxy, scenario, config), fault, expected)
        store.clear(config.run.runs)


def prepare_scenario(site: Site, scenario: Scenario) -> TrainConfig:
    """Runs Prepare of a scenario. Returns the config of Train."""
    data = f"s3://{BUCKET}/rows/{scenario.name}.jsonl"
    site.store().write(data, scenario.rows)
    config = make_run(
        site,
        scenario.name,
        task=scenario.task,
        model=f"s3://{BUCKET}/base/{scenario.model}",
        data=data,
        method=scenario.method,
        zero_stage=scenario.zero_stage,
        processes_per_node=scenario.ranks,
        training=scenario.training,
    )
    return prepare(site, config)


def inject(drill: Drill, fault: Fault, expected: Result) -> Row:
    """Injects one fault.

    Args:
        drill: a new training.
        fault: the fault.
        expected: the result without faults.
    """
    account, finished = drill.account, False
    try:
        drill.finish(fault.inject(drill), expected)
        finished = True
    except DevclusterError as error:
        account.problems.append(str(error).replace("\n", " ")[-_SHOWN_CHARS:])
    finally:
        drill.proxy.resume()
        drill.proxy.heal()
        drill.close()
    return Row(
        fault=fault.name,
        scenario=str(drill.scenario),
        outcome=", ".join(account.outcomes),
        seconds=account.seconds,
        lost=account.lost,
        finished=finished,
        problems=tuple(account.problems),
    )


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.burst`: FineTuneJobs against Kubeflow Trainer and JobSet, in turn on one API server."""

import argparse
import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench.burst import releases, table
from bench.burst.figures import Report
from bench.burst.kube import connect
from bench.burst.measure import Server, Size, run
from bench.burst.sides import NAMESPACE, Side, ours, peer
from bench.machine import await_quiet, this_machine
from devcluster.controlplane import control_plane
from devcluster.places import REPOSITORY, DevclusterError, write_whole
from devcluster.progress import say, step

RESULTS = REPOSITORY / "bench/results"


def main() -> int:
    """Measures, prints the tables, writes the figures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.burst", description=__doc__)
    parser.add_argument("--jobs", type=int, default=500, help="applied at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: %(default)s)")
    parser.add_argument("--alone", type=int, default=5, help="jobs one by one before (default: %(default)s)")
    parser.add_argument(
        "--idle",
        type=float,
        default=330,
        metavar="SECONDS",
        help="how long to look on after each side's last burst; the default holds a whole resync",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=300,
        metavar="SECONDS",
        help="how long to wait for a quiet machine before each run (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep logs there, the audit log among them"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        try:
            report = _compare(folder, arguments)
        except DevclusterError as error:
            say(f"error: {error}")
            return 1
    name = f"burst-{report.began.replace(':', '')}.json"
    write_whole(RESULTS / name, report.model_dump_json(indent=1))
    print(table.rendered(report))
    say(f"figures: {(RESULTS / name).relative_to(REPOSITORY)}")
    return 0


def _compare(folder: Path, arguments: argparse.Namespace) -> Report:
    sides = ours(folder / "ours"), *peer(folder / "peer")
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with (
        control_plane(folder) as kubeconfig,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_interleaved(folder, kubeconfig, sides, began, arguments))


async def _interleaved(
    folder: Path, kubeconfig: Path, sides: tuple[Side, ...], began: str, arguments: argparse.Namespace
) -> Report:
    for side in sides:
        releases.apply(kubeconfig, side.install)
    runs = []
    async with connect(kubeconfig) as kube:
        await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        server = Server(kube, kubeconfig, folder)
        for number in range(1, arguments.rounds + 1):
            last = number == arguments.rounds
            size = Size(arguments.jobs, arguments.alone, arguments.idle if last else 0)
            for side in sides:
                load = await asyncio.to_thread(await_quiet, arguments.patience)
                with step(f"round {number}: {side.name}, load average {load:.1f} before"):
                    runs.append(await run(server, side, number, load, size))
    return Report(machine=this_machine(), began=began, jobs=arguments.jobs, runs=tuple(runs))


if __name__ == "__main__":
    sys.exit(main())

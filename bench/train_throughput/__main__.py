"""`python -m bench.train_throughput`: the same rows by each trainer, in turn."""

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import await_quiet, this_machine
from bench.train_throughput import race, table
from bench.train_throughput.cases import CASES, make_models
from bench.train_throughput.figures import Report
from devcluster.places import REPOSITORY, DevclusterError, write_whole
from devcluster.progress import say, step

RESULTS = REPOSITORY / "bench/results"


def main() -> int:
    """Measures, prints the tables, writes the figures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_throughput", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="epochs that count (default: %(default)s)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="of each contender (default: %(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how long to wait for a quiet machine before (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        report = _measured(arguments)
    except DevclusterError as error:
        say(f"error: {error}")
        return 1
    name = f"train-throughput-{report.began.replace(':', '')}.json"
    write_whole(RESULTS / name, report.model_dump_json(indent=1))
    print(table.rendered(report))
    say(f"figures: {(RESULTS / name).relative_to(REPOSITORY)}")
    strangers = [f"{name} ({case.case})" for case in report.cases for name in table.strangers(case)]
    if strangers:
        say(f"error: another loss or gradient than the plain Trainer's: {', '.join(strangers)}")
    return 1 if strangers else 0


def _measured(arguments: argparse.Namespace) -> Report:
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    load = await_quiet(arguments.patience)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with step("making the models"):
            make_models(folder)
        measured = tuple(
            race.measured(case, folder, arguments.rounds, arguments.threads)
            for case in CASES
            if case.name in arguments.cases
        )
    return Report(machine=this_machine(), began=began, load=load, threads=arguments.threads, cases=measured)


if __name__ == "__main__":
    sys.exit(main())

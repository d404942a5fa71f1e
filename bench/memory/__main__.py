"""`make bench BENCH=memory`: one table of estimated and measured peaks."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.memory.case import CASES, Case
from finetune_trainer.models.memory import GpuMemory, estimate_gpu
from finetune_trainer.pod.launch import MALLOC
from finetune_trainer.stages.measure_model import measure_model

RESULTS = Path(__file__).parents[1] / "results"
MIB = 2**20
HEAD = (
    *("method", "stage", "processes", "data type", "rows x tokens", "checkpointing"),
    *("libraries", "estimated", "measured", "ratio"),
)
GOAL = 0.15
"""Median difference between estimate and measurement."""


def main() -> int:
    """Runs all cases, each in processes of its own, and prints the table."""
    parser = argparse.ArgumentParser(prog="bench.memory")
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of the cases, counted from 1")
    given = parser.parse_args()
    selected = [CASES[number - 1] for number in given.cases] if given.cases else list(CASES)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    found, differences = [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in selected:
            base = make_model(Path(folder), case)
            measured = run(case, base, Path(folder) / "result.json")
            estimate = estimate_case(case, base)
            total = estimate.training + measured["libraries"]
            ratio = total / measured["peak"]
            differences.append(abs(ratio - 1))
            found.append({"case": asdict(case), "measured": measured, "estimated": asdict(estimate)})
            cells = (
                *(case.method, case.zero_stage, case.world, case.dtype, f"{case.rows} x {case.length}"),
                "yes" if case.checkpointing else "no",
                *(round(size / MIB) for size in (measured["libraries"], total, measured["peak"])),
                f"{ratio:.2f}",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    median = statistics.median(differences)
    print(f"\nSizes in MiB. Median difference {median:.1%} (goal: at most {GOAL:.0%}).")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory.json").write_text(json.dumps(found, indent=1))
    return int(median > GOAL)


def make_model(folder: Path, case: Case) -> Path:
    """Makes a Llama of 81 million parameters with random weights, once for each data type."""
    base = folder / case.dtype
    if not base.exists():
        program = [sys.executable, "-m", "bench.memory.random_llama", str(base), case.dtype]
        subprocess.run(program, check=True)  # noqa: S603 - a module of this benchmark
    return base


def run(case: Case, base: Path, result: Path) -> dict[str, int]:
    """Runs a case, and returns the measured bytes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.world}"]
    program = ["-m", "bench.memory.worker", case.encode(), str(base), str(result)]
    environment = {**os.environ, **MALLOC}
    subprocess.run(  # noqa: S603 - a module of this benchmark
        [sys.executable, *launcher, *program], check=True, capture_output=True, env=environment
    )
    measured: dict[str, int] = json.loads(result.read_text())
    return measured


def estimate_case(case: Case, base: Path) -> GpuMemory:
    """Estimates the memory of one process."""
    facts = measure_model(base, "TextGeneration", case.spec, case.choices.dtypes.weights, case.length)
    return estimate_gpu(facts, case.choices)


if __name__ == "__main__":
    sys.exit(main())

"""Real processes under torchrun on a tiny random BERT: a step must not depend on how its batch is split."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ONE_PROCESS = [[0, 8, 1], [1, 2, 4], [2, 4, 2], [3, 1, 8]]
TWO_PROCESSES = [[0, 4, 1], [0, 1, 4], [1, 2, 2], [2, 4, 1], [2, 1, 4], [3, 2, 2]]
"""[ZeRO stage, micro-batch, accumulation]; with the number of processes each makes batches of 8 rows."""


def under_torchrun(processes: int, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", "-m", f"tests.trainer.programs.{program}", *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def reference(tiny_base: Path) -> list[tuple[float, float, int]]:
    """Loss and gradient norm of each step by plain PyTorch: the whole batch in one pass."""
    import torch  # noqa: PLC0415 - heavy
    from transformers import set_seed  # noqa: PLC0415

    from finetune_trainer.tasks.text_classification import learning  # noqa: PLC0415
    from finetune_trainer.tasks.text_classification.model import classify, load_classifier  # noqa: PLC0415
    from finetune_trainer.training.batches import epoch_batches  # noqa: PLC0415
    from finetune_trainer.training.inputs import lengths  # noqa: PLC0415
    from tests.trainer.programs import truth  # noqa: PLC0415

    split = truth.synthetic_rows()
    set_seed(1)
    model = load_classifier(tiny_base, [str(number) for number in range(truth.CLASSES)])
    steps = []
    for batch in epoch_batches(lengths(split), truth.BATCH, seed=3, epoch=0):
        inputs = learning.collate(split, batch, 0)
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(classify(model, inputs), inputs["labels"])
        loss.backward()
        norm = torch.linalg.vector_norm(torch.stack([weight.grad.norm() for weight in model.parameters()]))
        steps.append((loss.item(), norm.item(), len(batch)))
    return steps


@pytest.mark.parametrize(("processes", "cases"), [(1, ONE_PROCESS), (2, TWO_PROCESSES)])
def test_loss_and_gradient_norm_are_those_of_the_whole_batch_however_it_is_split(
    processes: int,
    cases: list[list[int]],
    reference: list[tuple[float, float, int]],
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    figures = tmp_path / "figures.json"
    ended = under_torchrun(processes, "truth", str(tiny_base), json.dumps(cases), str(figures))
    assert ended.returncode == 0, ended.stderr[-3000:]
    measured = json.loads(figures.read_text())
    assert len(measured) == len(cases)
    for case, steps in measured.items():
        assert len(steps) == 3, case
        for step, expected in zip(steps, reference, strict=True):
            assert step == pytest.approx(expected, rel=1e-5), case
    assert [step[2] for step in reference] == [8, 8, 5]


def test_all_ranks_end_at_the_same_step_with_the_same_reason(tiny_base: Path, tmp_path: Path) -> None:
    ended = under_torchrun(2, "faults", str(tiny_base), str(tmp_path))
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["loss"][:2] == ["Numerical", "NonFiniteLoss"]
    assert first["loss"][2].endswith(
        f"loss of step 2 is not finite; rows (lines of dataset.train): {first['line']}"
    )
    assert first["gradient"][:2] == ["Numerical", "NonFiniteGradient"]
    assert "step 2" in first["gradient"][2]
    assert first["leave"][:2] == ["Preempted", "Preempted"]
    assert "step 2" in first["leave"][2]

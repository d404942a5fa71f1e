"""Real gangs on tiny random models: a step must not depend on how its batch is split."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import forks

FULL = "Full"
LORA = {"kind": "LoRA", "rank": 4, "alpha": 8}
FREEZE = {"kind": "FreezeLayers", "trainLast": 1}
ONE_PROCESS = [
    [FULL, [[0, 8, 1], [1, 2, 4], [2, 4, 2], [3, 1, 8]]],
    [LORA, [[0, 8, 1], [3, 2, 4]]],
    [FREEZE, [[0, 2, 4]]],
]
TWO_PROCESSES = [
    [FULL, [[0, 4, 1], [0, 1, 4], [1, 2, 2], [2, 4, 1], [2, 1, 4], [3, 2, 2]]],
    [LORA, [[0, 4, 1], [1, 1, 4], [2, 2, 2], [3, 2, 2]]],
    [FREEZE, [[1, 4, 1], [2, 2, 2], [3, 1, 4]]],
]
"""By processes: [method, [ZeRO stage, micro-batch, accumulation] ...]; each makes batches of 8 rows."""


def plain_steps(subject: str, base: Path, method: object) -> list[tuple[float, float, int]]:
    """Loss and gradient norm of each step by plain PyTorch: the whole batch in one pass, padded."""
    import torch  # noqa: PLC0415 - heavy
    from pydantic import TypeAdapter  # noqa: PLC0415
    from torch.nn.functional import cross_entropy  # noqa: PLC0415

    from finetune_trainer.config import Method  # noqa: PLC0415
    from finetune_trainer.data.batches import epoch_batches  # noqa: PLC0415
    from finetune_trainer.models.collate import lengths, pad_batch  # noqa: PLC0415
    from tests.trainer.programs import truth  # noqa: PLC0415

    what = truth.SUBJECTS[subject]
    split, model = what.rows, what.load(base, TypeAdapter[Method](Method).validate_python(method))
    steps = []
    for batch in epoch_batches(lengths(split), truth.BATCH, seed=3, epoch=0):
        inputs = pad_batch(split, batch, 0)
        logits = model(**inputs).logits
        weights = torch.ones(truth.CLASSES)
        if what.class_weights != "None":
            counts = torch.bincount(torch.tensor(split.labels), minlength=truth.CLASSES)
            assert counts.tolist() == [15, 4, 2]
            weights = len(split.labels) / (truth.CLASSES * counts)
        if what.class_weights == "SquareRoot":
            weights = weights.sqrt()
            weights = weights * len(split.labels) / (weights * counts).sum()
        if subject not in {"packed", "padded"}:
            labels = torch.tensor(split.labels[batch].astype(int))
        else:
            loss_mask = [split.loss_mask[slice(*split.offsets[[row, row + 1]])] for row in batch]
            labels = inputs["input_ids"].clone()
            for place, row in enumerate(loss_mask):
                labels[place, : len(row)][~torch.tensor(row)] = -100
                labels[place, len(row) :] = -100
            logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        model.zero_grad()
        if what.class_weights == "None":
            loss = cross_entropy(logits, labels)
        else:
            loss = cross_entropy(logits, labels, weight=weights, reduction="sum") / len(labels)
        loss.backward()
        gradients = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(gradients))
        steps.append((loss.item(), norm.item(), len(batch)))
    return steps


CASES: list[tuple[str, int, list[list[Any]]]] = [
    ("classification", 1, ONE_PROCESS),
    ("classification", 2, TWO_PROCESSES),
    ("packed", 1, ONE_PROCESS),
    ("packed", 2, TWO_PROCESSES),
    ("padded", 2, TWO_PROCESSES[:1]),
    ("balanced", 2, [[FULL, [[0, 4, 1], [0, 1, 4], [2, 2, 2]]]]),
    ("square root", 2, [[LORA, [[1, 4, 1], [3, 2, 2]]]]),
]
BFLOAT16 = [FULL, [[0, 4, 1], [1, 4, 1], [2, 4, 1], [3, 4, 1]]]
Figures = list[tuple[float, float, int]]
"""Loss, gradient norm and rows of each step."""
Measure = Callable[..., Figures]


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tiny_llama: Path) -> Callable[[str], Path]:
    """The base model of a subject."""
    return lambda subject: tiny_llama if subject in {"packed", "padded"} else tiny_base


@pytest.fixture(scope="module")
def measured(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """The steps of a case; all cases of one number of processes are measured together."""

    @cache
    def figures(processes: int) -> dict[str, Figures]:
        asked = [
            (subject, str(bases(subject)), *case, "float32")
            for subject, number, cases in CASES
            for case in cases
            if number == processes
        ]
        if processes == 2:
            asked.append(("classification", str(bases("classification")), *BFLOAT16, "bfloat16"))
        result = tmp_path_factory.mktemp("truth") / "figures.json"
        ended = forks.run(
            "tests.trainer.programs.truth", str(result), *map(json.dumps, asked), ranks=processes
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        found: dict[str, Figures] = json.loads(result.read_text())
        return found

    def of(
        processes: int, subject: str, method: object, split: list[int], precision: str = "float32"
    ) -> Figures:
        return figures(processes)[json.dumps([subject, method, split, precision])]

    return of


@pytest.mark.parametrize(("subject", "processes", "cases"), CASES)
def test_loss_and_gradient_norm_are_those_of_the_whole_batch_however_it_is_split(
    subject: str,
    processes: int,
    cases: list[list[Any]],
    bases: Callable[[str], Path],
    measured: Measure,
) -> None:
    for method, splits in cases:
        expected_steps = plain_steps(subject, bases(subject), method)
        assert [rows for _, _, rows in expected_steps] == [8, 8, 5]
        for split in splits:
            found = measured(processes, subject, method, split)
            for step, expected in zip(found, expected_steps, strict=True):
                assert step == pytest.approx(expected, rel=1e-5), (method, split)


def test_gradients_of_bfloat16_training_are_reduced_in_float32(
    bases: Callable[[str], Path], measured: Measure
) -> None:
    without_zero, *with_zero = (
        measured(2, "classification", FULL, split, "bfloat16") for split in BFLOAT16[1]
    )
    in_float32 = plain_steps("classification", bases("classification"), FULL)
    assert without_zero != [pytest.approx(step, rel=1e-6) for step in in_float32], "it computes in bfloat16"
    for found in with_zero:
        for step, expected in zip(found, without_zero, strict=True):
            assert step == pytest.approx(expected, rel=2e-5)


def test_what_is_offloaded_learns_the_same(tiny_base: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ended = forks.run("tests.trainer.programs.offloaded", str(tiny_base), str(figures), ranks=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for method, measured in json.loads(figures.read_text()).items():
        usual = measured.pop('[2, "None"]')
        at_rest = plain_steps("classification", tiny_base, FULL if method == "Full" else LORA)
        assert usual[0][0] == pytest.approx(at_rest[0][0], rel=1e-5)
        assert usual[2][0] != pytest.approx(at_rest[2][0], rel=1e-3), "the steps before change the weights"
        assert len(measured) == 3
        for case, steps in measured.items():
            for step, expected in zip(steps, usual, strict=True):
                assert step == pytest.approx(expected, rel=2e-6), (method, case)


def test_all_ranks_end_at_the_same_step_with_the_same_reason(tiny_base: Path, tmp_path: Path) -> None:
    ended = forks.run("tests.trainer.programs.faults", str(tiny_base), str(tmp_path), ranks=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["loss"][:2] == ["Numerical", "NonFiniteLoss"]
    assert first["place"].startswith("b.csv:")
    assert first["loss"][2].endswith(
        f"loss of step 2 is not finite; rows (lines of dataset.train): {first['place']}"
    )
    assert first["gradient"][:2] == ["Numerical", "NonFiniteGradient"]
    assert "step 2" in first["gradient"][2]
    assert first["leave"][:2] == ["Preempted", "Preempted"]
    assert "step 2" in first["leave"][2]

"""Real gangs on tiny random models: a step must not depend on how its batch is split."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.config import Training
from tests.trainer import forks

FULL = "Full"
LORA = {"kind": "LoRA", "rank": 4, "alpha": 8}
DORA = {**LORA, "weightDecomposition": True, "trainEmbeddings": True}
DROPPING_DORA = {**DORA, "dropout": 1e-7}
"""Drops nothing, but with dropout the adapter itself computes the product with the weight of the layer."""
QLORA = {**LORA, "quantization": "NF4"}
PISSA = {**LORA, "initialization": "PiSSA"}
FREEZE = {"kind": "FreezeLayers", "trainLast": 1}
ONE_PROCESS = [
    [FULL, [[0, 8], [1, 2], [2, 4], [3, 1], [0, 30, "tokens"], [3, 15, "tokens"]]],
    [LORA, [[0, 8], [3, 2]]],
    [FREEZE, [[0, 2]]],
]
TWO_PROCESSES = [
    [FULL, [[0, 4], [0, 1], [1, 2], [2, 4], [2, 1], [3, 2], *([stage, 20, "tokens"] for stage in range(4))]],
    [LORA, [[0, 4], [1, 1], [2, 2], [3, 2], [2, 1, "tokens"], [3, 15, "tokens"]]],
    [FREEZE, [[1, 4], [2, 2], [3, 1]]],
]
"""[method, [[ZeRO stage, size of a micro-batch, unit, by default rows], ...]]; each batch has 8 rows."""
VARIANTS = [
    [DORA, [[2, 2], [3, 4], [3, 2]]],
    [DROPPING_DORA, [[3, 2]]],
    [PISSA, [[2, 2], [3, 2]]],
    [QLORA, [[0, 4], [1, 2], [2, 2], [3, 4], [3, 2]]],
]
"""Variants of LoRA for two processes."""


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


def bfloat16_norms(subject: str, base: Path) -> tuple[list[float], list[float]]:
    """Norms of the gradients of bfloat16 weights in plain PyTorch, summed in float32 and in bfloat16."""
    import torch  # noqa: PLC0415 - heavy

    from finetune_trainer.data.batches import Layout, MicroBatchSize  # noqa: PLC0415
    from finetune_trainer.training.loader import RankBatches  # noqa: PLC0415
    from tests.trainer.programs import truth  # noqa: PLC0415

    what = truth.SUBJECTS[subject]
    model = what.load(base, "Full", torch.bfloat16)
    losses = what.model.loss_function(Training(), what.prepared, torch.device("cpu"))
    collate = partial(what.model.collate, pad_id=0, packing=what.packing)
    layout = Layout(truth.BATCH, 2, MicroBatchSize(4, "rows"))
    ranks = [list(RankBatches(what.rows, layout, rank=rank, seed=3, collate=collate)) for rank in range(2)]
    norms: tuple[list[float], list[float]] = ([], [])
    for steps in zip(*ranks, strict=True):
        targets = sum(step.targets for step in steps)
        gradients = []
        for step in steps:
            (micro_batch,) = step.micro_batches
            inputs = dict(micro_batch.inputs)
            labels = inputs.pop("labels")
            model.zero_grad()
            (losses(model(**inputs, **what.model.FORWARD), labels).sum() / targets).backward()
            gradients.append([w.grad.clone() for w in model.parameters() if w.grad is not None])
        for norm, dtype in zip(norms, (torch.float32, torch.bfloat16), strict=True):
            first, second = ([gradient.to(dtype) for gradient in rank] for rank in gradients)
            sums = [(one + other).float().norm() for one, other in zip(first, second, strict=True)]
            norm.append(float(torch.stack(sums).norm()))
    return norms


CASES: list[tuple[str, int, list[list[Any]]]] = [
    ("classification", 1, ONE_PROCESS),
    ("classification", 2, TWO_PROCESSES),
    ("packed", 1, ONE_PROCESS),
    ("packed", 2, [*TWO_PROCESSES, *VARIANTS]),
    ("padded", 2, TWO_PROCESSES[:1]),
    ("balanced", 2, [[FULL, [[0, 4], [0, 1], [2, 2]]]]),
    ("square root", 2, [[LORA, [[1, 4], [3, 2]]]]),
]
CHECKPOINTED: list[tuple[str, object, list[int]]] = [
    ("classification", FULL, [0, 4]),
    ("classification", LORA, [3, 2]),
    ("packed", FULL, [2, 4]),
    ("packed", LORA, [3, 2]),
    ("packed", DORA, [3, 2]),
    ("packed", QLORA, [3, 2]),
    ("packed", FREEZE, [3, 1]),
]
AUTOCAST = [FULL, [[0, 4], [1, 4], [2, 4], [3, 4]]]
"""Float32 weights and bfloat16 products."""
BFLOAT16_WEIGHTS = {
    1: [[FULL, [[1, 8], [2, 2], [3, 4]]], [LORA, [[2, 8]]]],
    2: [
        [FULL, [[1, 4], [2, 4], [2, 1], [3, 4], [3, 2], [2, 20, "tokens"]]],
        [LORA, [[1, 4], [2, 1], [3, 2]]],
        [FREEZE, [[2, 2], [3, 4]]],
        [DORA, [[2, 2], [3, 2]]],
        [PISSA, [[3, 2]]],
    ],
}
"""By processes."""
Figures = list[tuple[float, float, int]]
"""Loss, gradient norm and rows of each step."""
Measure = Callable[..., Figures]
Results = Callable[[int, str], Any]
"""Number of processes and data type of the base model -> what tests.trainer.programs.truth writes."""


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tiny_llama: Path) -> Callable[[str], Path]:
    """The base model of a subject."""
    return lambda subject: tiny_llama if subject in {"packed", "padded"} else tiny_base


@pytest.fixture(scope="module")
def results(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All cases of one number of processes are measured together."""

    @cache
    def of(processes: int, base_dtype: str) -> Any:
        # DeepSpeed never resets the autocast of a process, so bfloat16 weights have processes of their own.
        if base_dtype == "bfloat16":
            asked = [
                (subject, str(bases(subject)), *case, "bfloat16", "bfloat16", False)
                for subject in ("classification", "packed")
                for case in BFLOAT16_WEIGHTS[processes]
            ]
        else:
            asked = [
                (subject, str(bases(subject)), *case, "float32", "float32", False)
                for subject, number, cases in CASES
                for case in cases
                if number == processes
            ]
            if processes == 2:
                base = str(bases("classification"))
                asked.append(("classification", base, *AUTOCAST, "bfloat16", "float32", False))
                asked += [
                    (subject, str(bases(subject)), method, [split], "float32", "float32", True)
                    for subject, method, split in CHECKPOINTED
                ]
        result = tmp_path_factory.mktemp("truth") / "figures.json"
        ended = forks.run(
            "tests.trainer.programs.truth", str(result), *map(json.dumps, asked), ranks=processes
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return json.loads(result.read_text())

    return of


@pytest.fixture(scope="module")
def measured(results: Results) -> Measure:
    """The steps of a case."""

    def of(
        processes: int,
        subject: str,
        method: object,
        split: list[Any],
        precision: str = "float32",
        base_dtype: str = "float32",
        *,
        checkpointing: bool = False,
    ) -> Figures:
        case = [subject, method, split, precision, base_dtype, checkpointing]
        found: Figures = results(processes, base_dtype)["figures"][json.dumps(case)]
        return found

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


@pytest.mark.parametrize(("processes", "base_dtype"), [(1, "float32"), (2, "float32"), (2, "bfloat16")])
def test_the_host_reads_the_device_once_in_a_step_before_the_weights_change(
    processes: int, base_dtype: str, results: Results
) -> None:
    steps = results(processes, base_dtype)["calls"]
    assert len(steps) > 20
    before = [calls[: calls.index("step")] for calls in steps]
    assert all(calls == [*["backward"] * (len(calls) - 1), "tolist"] for calls in before)
    assert {len(calls) for calls in before} >= {2, 3, 5}


@pytest.mark.parametrize(("subject", "method", "split"), CHECKPOINTED)
def test_activation_checkpointing_changes_neither_loss_nor_gradient(
    subject: str, method: object, split: list[int], measured: Measure
) -> None:
    usual = measured(2, subject, method, split)
    checkpointed = measured(2, subject, method, split, checkpointing=True)
    for step, expected in zip(checkpointed, usual, strict=True):
        assert step == pytest.approx(expected, rel=1e-6)


def test_gradients_of_bfloat16_training_are_reduced_in_float32(
    bases: Callable[[str], Path], measured: Measure
) -> None:
    without_zero, *with_zero = (
        measured(2, "classification", FULL, split, "bfloat16") for split in AUTOCAST[1]
    )
    in_float32 = plain_steps("classification", bases("classification"), FULL)
    assert without_zero != [pytest.approx(step, rel=1e-6) for step in in_float32], "it computes in bfloat16"
    for found in with_zero:
        for step, expected in zip(found, without_zero, strict=True):
            assert step == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("subject", ["classification", "packed"])
def test_bfloat16_weights_change_loss_and_gradient_norm_by_no_more_than_their_rounding(
    subject: str, processes: int, bases: Callable[[str], Path], measured: Measure
) -> None:
    for method, splits in BFLOAT16_WEIGHTS[processes]:
        expected_steps = plain_steps(subject, bases(subject), method)
        for split in splits:
            found = measured(processes, subject, method, split, "bfloat16", "bfloat16")
            assert found != expected_steps, "the weights are float32"
            for (loss, norm, rows), expected in zip(found, expected_steps, strict=True):
                assert loss == pytest.approx(expected[0], rel=5e-3), (method, split)
                assert norm == pytest.approx(expected[1], rel=2e-2), (method, split)
                assert rows == expected[2]


@pytest.mark.parametrize("subject", ["classification", "packed"])
def test_gradients_of_bfloat16_weights_are_reduced_in_float32(
    subject: str, bases: Callable[[str], Path], measured: Measure
) -> None:
    in_float32, in_bfloat16 = bfloat16_norms(subject, bases(subject))
    assert in_bfloat16 != pytest.approx(in_float32, rel=1e-5)
    for stage in (1, 2, 3):
        found = measured(2, subject, FULL, [stage, 4], "bfloat16", "bfloat16")
        assert [norm for _, norm, _ in found] == pytest.approx(in_float32, rel=1e-6), stage


def test_the_optimizer_updates_a_float32_copy_of_bfloat16_weights(tiny_base: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ended = forks.run("tests.trainer.programs.small_updates", str(tiny_base), str(figures), ranks=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    shares = json.loads(figures.read_text())
    assert set(shares) == {"1", "2", "3"}
    for stage, share in shares.items():
        # The rows lack some tokens, whose embeddings do not change; biases are 0 and change in any data type.
        assert share["float32"] > 0.9, stage
        assert share["bfloat16"] < 0.1, stage


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 1e-3)])
def test_what_is_offloaded_learns_the_same(
    dtype: str, tolerance: float, tiny_base: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    ended = forks.run("tests.trainer.programs.offloaded", str(tiny_base), str(figures), dtype, ranks=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for method, measured in json.loads(figures.read_text()).items():
        usual = measured.pop('[2, "None"]')
        at_rest = plain_steps("classification", tiny_base, FULL if method == "Full" else LORA)
        assert usual[0][0] == pytest.approx(at_rest[0][0], rel=1e-5 if dtype == "float32" else 1e-3)
        assert usual[2][0] != pytest.approx(at_rest[2][0], rel=1e-3), "the steps before change the weights"
        assert len(measured) == 3
        for case, steps in measured.items():
            for step, expected in zip(steps, usual, strict=True):
                assert step == pytest.approx(expected, rel=tolerance), (method, case)


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
    # The operator skips this step in the next attempt, if the job permits.
    assert first["loss"][3] == first["gradient"][3] == 2


def test_biases_and_norms_have_no_weight_decay_also_those_of_dora(tiny_base: Path) -> None:
    from finetune_trainer.config import Lora  # noqa: PLC0415
    from finetune_trainer.training.loop import Loop  # noqa: PLC0415 - heavy
    from tests.trainer.programs import truth  # noqa: PLC0415

    tuned = truth.CLASSIFICATION.load(tiny_base, Lora(weight_decomposition=True))
    trained = {name for name, weight in tuned.named_parameters() if weight.requires_grad}
    without_decay = trained - set(Loop.get_decay_parameter_names(Loop.__new__(Loop), tuned))
    assert {name.split(".")[-3 if "magnitude" in name else -1] for name in without_decay} == {
        "lora_magnitude_vector",
        "bias",
    }
    assert sum(".lora_magnitude_vector." in name for name in without_decay) == 2 * 6

"""Trainings that are interrupted and resumed, compared with trainings without interruption."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from finetune_trainer.checkpoints.documents import MANIFEST, CheckpointManifest
from finetune_trainer.checkpoints.files import read_header
from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Chosen
from finetune_trainer.data.shards import Prepared
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store
from tests.trainer import forks
from tests.trainer.programs.resumed import SKIPPED

LORA = {"kind": "LoRA", "rank": 4, "alpha": 8, "dropout": 0.2}
EPOCH, STEPS = 4, 8
"""Two epochs of 4 steps; the validation rows are evaluated after each epoch."""
ENDED_ATTEMPTS = 2
"""Attempts that receive the request to end at random moments."""
Tensors = dict[str, torch.Tensor]
RunCases = Callable[..., list[dict[str, Any]]]
CHOSEN = {
    "epochs": 2,
    "batch_size": 32,
    "micro_batch_size": 8,
    "accumulation_steps": 2,
    "world_size": 2,
    "learning_rate": 0.01,
    "max_length": 16,
    "zero_stage": 2,
    "total_steps": STEPS,
}


@pytest.fixture
def run_cases(
    given_run: Callable[..., TrainConfig],
    tiny_base: Path,
    learnable: Prepared,
    paths: Paths,
    tmp_path: Path,
) -> RunCases:
    """Runs cases of tests.trainer.programs.resumed in gangs of a number of processes."""
    configs: list[TrainConfig] = []

    def run(cases: list[list[Any]], processes: int = 2, persistent: int = 0, **chosen: Any) -> Any:
        if not configs:
            given = Chosen.model_validate({**CHOSEN, **chosen})
            precision = "BFloat16" if given.model_dtype == "bfloat16" else "Auto"
            configs.append(given_run(tiny_base, learnable, given, precision=precision))
        config = configs[0]
        assert config.chosen
        chosen_here = config.chosen.model_copy(update={"world_size": processes})
        config = config.model_copy(update={"chosen": chosen_here})
        paths.config.parent.mkdir(parents=True, exist_ok=True)
        paths.config.write_text(config.model_dump_json(by_alias=True))
        result = tmp_path / "outcomes.json"
        ended = forks.run(
            "tests.trainer.programs.resumed",
            *(str(paths.root), str(result), str(persistent)),
            *map(json.dumps, cases),
            ranks=processes,
        )
        assert ended.returncode == 0, ended.stderr[-4000:]
        return json.loads(result.read_text())

    return run


def checkpoint_of(
    store: Store, bucket: str, folder: str, step: int = STEPS
) -> tuple[CheckpointManifest, Tensors]:
    """Manifest and whole tensors of the newest checkpoint of a step.

    An attempt that ends on request after the last step saves this step, and the next attempt evaluates the
    validation rows and saves the step again.
    """
    entries = [entry.uri for entry in store.list(f"s3://{bucket}/runs/{folder}/checkpoints/")]
    manifest_uri = max(uri for uri in entries if uri.endswith(MANIFEST) and f"/{step:08d}-" in uri)
    manifest = CheckpointManifest.model_validate_json(store.read(manifest_uri))
    pieces: dict[str, dict[int, torch.Tensor]] = {}
    for shard in manifest.shards:
        content = store.read(manifest_uri.removesuffix(MANIFEST) + shard.path)
        values = load(content)
        for span in read_header(content[: shard.header_bytes]):
            key = f"{span.name}:{span.kind}"
            pieces.setdefault(key, {})[span.offset] = values[f"{key}:{span.offset}"]
    return manifest, {
        key: torch.cat([parts[offset] for offset in sorted(parts)]) for key, parts in pieces.items()
    }


def without_times(outcome: dict[str, Any]) -> dict[str, Any]:
    return {name: outcome[name] for name in ("ended", "best", "history", "curve", "steps")}


def whole_and_parts(
    name: str, stage: int, method: object, step: int, how: str, offload: str = "None"
) -> list[list[Any]]:
    """A training without interruption, and one in two attempts."""
    return [
        [f"whole-{name}", stage, offload, method, 1, None, None],
        [f"parts-{name}", stage, offload, method, 1, step, how],
        [f"parts-{name}", stage, offload, method, 2, None, None],
    ]


def check_equal(
    outcomes: list[dict[str, Any]], store: Store, bucket: str, name: str, step: int, whole: str | None = None
) -> None:
    """The second attempt resumed at a step, and ended as the training without interruption did."""
    expected, first, second = outcomes
    assert first["ended"] in {"Preempted", "killed"}, first
    if first["ended"] == "Preempted":
        assert first["message"] == f"ended on request at step {step}; a new attempt resumes at this step"
        assert first["progress"]["checkpoint_step"] == step
    assert second["progress"]["resumed_from_step"] == step
    assert without_times(second) == without_times(expected), name
    manifest, tensors = checkpoint_of(store, bucket, f"whole-{whole or name}")
    resumed, resumed_tensors = checkpoint_of(store, bucket, f"parts-{name}")
    assert [shard.digests for shard in resumed.shards] == [shard.digests for shard in manifest.shards]
    assert tensors.keys() == resumed_tensors.keys()
    assert (resumed.step, resumed.samples, resumed.world) == (STEPS, 202, 2)
    assert counts_of(resumed) == counts_of(manifest)


def counts_of(manifest: CheckpointManifest) -> tuple[Any, ...]:
    """Rows and tokens of the state of the loop."""
    loop: Any = manifest.loop
    return loop["rows"], loop["tokens"]


def check_close(moved: dict[str, Any], whole: dict[str, Any]) -> None:
    """The same losses, gradients and scores up to the rounding of another order of sums."""
    for name in ("history", "curve"):
        for found, expected in zip(moved[name], whole[name], strict=True):
            assert found == pytest.approx(expected, rel=1e-5), name


def test_a_resumed_training_equals_a_training_without_interruption(
    run_cases: RunCases, store: Store, bucket: str
) -> None:
    ends = {
        0: (6, "preempted", 6),
        1: (EPOCH, "preempted", EPOCH),
        2: (6, "killed", EPOCH),
        3: (2, "preempted", 2),
    }
    cases = []
    for stage, (step, how, _) in ends.items():
        cases += whole_and_parts(str(stage), stage, LORA if stage == 3 else "Full", step, how)
    cases.append(["parts-0", 0, "None", "Full", 3, None, None])
    cases.append(["moved", 1, "None", "Full", 1, 2, "preempted"])
    # The step before the evaluation is saved; the second attempt evaluates first.
    cases += whole_and_parts("evaluation", 1, "Full", EPOCH, "evaluating")[1:]
    # The checkpoint of step 1 has neither the best weights nor the last: its interval has passed.
    cases += whole_and_parts("interval", 1, "Full", 2, "killed-saving")[1:]
    outcomes = run_cases(cases)
    for stage, (*_, resumed) in ends.items():
        check_equal(outcomes[3 * stage : 3 * stage + 3], store, bucket, str(stage), resumed)
    check_equal([outcomes[3], *outcomes[14:16]], store, bucket, "evaluation", EPOCH, whole="1")
    check_equal([outcomes[3], *outcomes[16:18]], store, bucket, "interval", 1, whole="1")
    # All steps are done: nothing is trained, and nothing is saved again.
    again = outcomes[12]
    assert again["progress"]["resumed_from_step"] == STEPS
    assert "step" not in again["progress"]
    assert without_times(again) == without_times(outcomes[0])

    damage_last_checkpoint(store, bucket, "parts-1")
    third, fourth, after_damage = run_cases(
        [
            ["moved", 3, "None", "Full", 2, 6, "preempted"],
            ["moved", 0, "None", "Full", 3, None, None],
            ["parts-1", 2, "None", "Full", 3, None, None],
        ],
        processes=1,
        persistent=100_000,
    )
    whole = outcomes[3]
    assert third["progress"]["resumed_from_step"] == 2
    assert fourth["progress"]["resumed_from_step"] == 6
    check_close(fourth, whole)
    assert after_damage["progress"]["resumed_from_step"] == EPOCH
    check_close(after_damage, whole)


def test_a_resumed_training_with_bfloat16_weights_or_offloaded_state_equals_one_without_interruption(
    run_cases: RunCases, store: Store, bucket: str
) -> None:
    cases = [
        *whole_and_parts("1", 1, "Full", 6, "preempted"),
        *whole_and_parts("2", 2, "Full", 6, "preempted", "Optimizer"),
        *whole_and_parts("3", 3, "Full", 6, "preempted", "OptimizerAndParameters"),
    ]
    outcomes = run_cases(cases, model_dtype="bfloat16")
    for stage in (1, 2, 3):
        check_equal(outcomes[3 * stage - 3 : 3 * stage], store, bucket, str(stage), 6)


def test_an_attempt_after_a_loss_that_is_not_finite_skips_the_step_and_changes_no_weights_in_it(
    run_cases: RunCases, store: Store, bucket: str
) -> None:
    cases: list[list[Any]] = []
    for stage, method in ((0, "Full"), (3, LORA)):
        kind = [stage, "None", method]
        cases += [
            [f"whole-{stage}", *kind, 1, None, "skipping"],
            [f"parts-{stage}", *kind, 1, None, "diverged"],
            [f"parts-{stage}", *kind, 2, 6, "skipping"],
            [f"parts-{stage}", *kind, 3, None, "skipping"],
            [f"before-{stage}", *kind, 1, SKIPPED - 1, "preempted"],
            [f"after-{stage}", *kind, 1, SKIPPED, "skipping"],
            [f"first-{stage}", *kind, 1, 1, "skipping-first"],
            [f"first-{stage}", *kind, 2, 3, "skipping-first"],
        ]
    outcomes = run_cases(cases)
    for stage, found in ((0, outcomes[:8]), (3, outcomes[8:])):
        whole, diverged, *_ = found
        assert diverged["ended"] == "NonFiniteLoss"
        assert diverged["progress"]["step"] == SKIPPED
        assert found[2]["progress"]["resumed_from_step"] in range(1, SKIPPED)
        check_equal([whole, *found[2:4]], store, bucket, str(stage), 6)
        assert [point["step"] for point in whole["curve"]] == [1, 2, 4, 5, 6, 7, 8]
        _, before = checkpoint_of(store, bucket, f"before-{stage}", SKIPPED - 1)
        _, after = checkpoint_of(store, bucket, f"after-{stage}", SKIPPED)
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        _, last = checkpoint_of(store, bucket, f"whole-{stage}")
        assert not all(torch.equal(tensor, last[name]) for name, tensor in before.items())
        assert [outcome["progress"]["checkpoint_step"] for outcome in found[6:]] == [1, 3]
        assert found[7]["progress"]["resumed_from_step"] == 1


@pytest.mark.parametrize("stage", range(4))
def test_a_training_asked_to_end_at_random_moments_ends_as_one_without_interruption(
    run_cases: RunCases, store: Store, bucket: str, stage: int
) -> None:
    """Each rank receives the request at a moment of its own: while it loads, trains, evaluates or saves."""
    drawn = random.Random(stage)  # noqa: S311 - no secret
    moments = [[drawn.randint(1, 15) for _ in range(2)] for _ in range(ENDED_ATTEMPTS)]
    method = LORA if stage == 3 else "Full"
    whole = [f"whole-{stage}", stage, "None", method, 1, None, None]
    parts = [f"parts-{stage}", stage, "None", method]
    ended = [[*parts, attempt, moment, "at-heartbeat"] for attempt, moment in enumerate(moments, start=1)]
    expected, *attempts = run_cases([whole, *ended, [*parts, ENDED_ATTEMPTS + 1, None, None]])
    assert attempts[0]["ended"] == "Preempted"
    saved = 0
    for attempt in attempts:
        assert attempt["ended"] in {"Preempted", "done"}, attempt
        assert attempt["progress"].get("resumed_from_step", 0) == saved
        saved = attempt["progress"]["checkpoint_step"]
    assert without_times(attempts[-1]) == without_times(expected)
    _, tensors = checkpoint_of(store, bucket, f"whole-{stage}")
    _, resumed = checkpoint_of(store, bucket, f"parts-{stage}")
    assert tensors.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], tensors[key]) for key in tensors)


def damage_last_checkpoint(store: Store, bucket: str, folder: str) -> None:
    """Changes one bit of the checkpoint of the last step."""
    entries = [entry.uri for entry in store.list(f"s3://{bucket}/runs/{folder}/checkpoints/")]
    uri = next(uri for uri in entries if f"/{STEPS:08d}-" in uri and uri.endswith(".safetensors"))
    content = bytearray(store.read(uri))
    content[-1] ^= 1
    store.write(uri, bytes(content))

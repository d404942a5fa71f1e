import numpy as np
import pytest

from finetune_trainer.config import Checkpointing, FreezeLayers, Lora, Precision, Run
from finetune_trainer.contract import Offload, WeightsDtype
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import plan
from finetune_trainer.tasks.text_classification.data import AUTO_LIMITS as CLASSES
from finetune_trainer.tasks.text_generation.data import AUTO_LIMITS as TOKENS


def run(nodes: int = 1, **training: object) -> Run:
    store = {"endpoint": "https://s3"}
    return Run.model_validate(
        {
            "task": "TextClassification",
            "model": {"uri": "s3://m/x"},
            "dataset": {"train": {"uri": "s3://d/t"}, "validation": {"split": 0.1}, "test": {"split": 0.1}},
            "training": training,
            "world": {"nodes": nodes},
            "evaluation": {"metrics": ["accuracy"]},
            "output": "s3://o/x/",
            "runs": "s3://o/r/",
            "stores": {"data": store, "model": store, "output": store},
        }
    )


@pytest.mark.parametrize(("rows", "epochs"), [(10, 10), (1200, 10), (3200, 4), (6000, 2), (10**6, 2)])
def test_epochs_cover_12000_rows_within_2_to_10(rows: int, epochs: int) -> None:
    assert plan.epochs_for(rows) == epochs


@pytest.mark.parametrize(
    ("rows", "world", "micro", "batch"),
    [
        (1000, 1, None, 32),
        (1000, 2, None, 32),
        (1000, 3, None, 33),
        (1000, 5, None, 30),
        (1000, 100, None, 100),
        (20, 2, None, 20),
        (21, 4, None, 20),
        (1000, 2, 12, 24),
        (1000, 1, 64, 64),
    ],
)
def test_the_batch_size_is_near_32_and_divisible(
    rows: int, world: int, micro: int | None, batch: int
) -> None:
    assert plan.batch_size(rows, world, micro) == batch


@pytest.mark.parametrize(
    ("longest", "tokens_at_once", "budget"),
    [(64, None, 1024), (512, None, 8192), (64, 4096, 4096), (2048, 4096, 4096), (5000, 4096, 5000)],
)
def test_a_micro_batch_has_the_tokens_of_16_rows_or_of_the_limit_and_holds_a_row(
    longest: int, tokens_at_once: int | None, budget: int
) -> None:
    assert plan.micro_batch_tokens(longest, tokens_at_once) == budget


def test_a_micro_batch_of_the_spec_is_a_number_of_rows() -> None:
    chosen = plan.choose(run(nodes=2, microBatchSize=4), 3200, 100, plan.BaseFacts(1, 512), CLASSES)
    assert (chosen.batch_size, chosen.micro_batch_size, chosen.accumulation_steps) == (32, 4, 4)
    assert chosen.micro_batch_tokens is None


def test_a_budget_of_tokens_takes_any_batch_with_a_row_for_each_process() -> None:
    for batch in (4, 30, 33):
        chosen = plan.choose(run(nodes=4, batchSize=batch), 3200, 100, plan.BaseFacts(1, 512), CLASSES)
        assert (chosen.batch_size, chosen.micro_batch_tokens) == (batch, 16 * 104)


def test_max_length_of_text_generation_is_the_longest_row_up_to_2048_tokens() -> None:
    lengths = np.array([20] * 99 + [500], dtype=np.int64)
    assert plan.typical_length(lengths, TOKENS.percentile) == 500
    assert plan.choose(run(), 3200, 500, plan.BaseFacts(1, None), TOKENS).max_length == 504
    assert plan.choose(run(), 3200, 9000, plan.BaseFacts(1, None), TOKENS).max_length == 2048
    assert plan.choose(run(), 3200, 9000, plan.BaseFacts(1, 1024), TOKENS).max_length == 1024


def test_max_length_of_text_classification_covers_99_percent_of_the_rows() -> None:
    lengths = np.array([20] * 99 + [500], dtype=np.int64)
    typical = plan.typical_length(lengths, 99)
    assert plan.max_length(typical, 512, 512) % 8 == 0
    assert plan.max_length(typical, 512, 512) >= np.percentile(lengths, 99)
    assert plan.max_length(4000, 512, 512) == 512
    assert plan.max_length(4000, 128, 512) == 128
    assert plan.max_length(4000, None, 512) == 512


def test_all_auto_values_are_consistent() -> None:
    chosen = plan.choose(run(nodes=2), 3200, 100, plan.BaseFacts(22_000_000, 512), CLASSES)
    assert (chosen.epochs, chosen.batch_size, chosen.micro_batch_tokens) == (4, 32, 16 * 104)
    assert (chosen.micro_batch_size, chosen.accumulation_steps) == (None, None)
    assert (chosen.learning_rate, chosen.max_length, chosen.zero_stage, chosen.total_steps) == (
        5e-5,
        104,
        2,
        400,
    )
    assert plan.choose(run(), 3200, 100, plan.BaseFacts(100_000_000, 512), CLASSES).learning_rate == 2e-5
    assert plan.choose(run(), 3200, 100, plan.BaseFacts(1, 512), CLASSES).zero_stage == 0


def test_lora_has_a_higher_learning_rate() -> None:
    asked = run().model_copy(update={"method": Lora()})
    assert plan.choose(asked, 3200, 100, plan.BaseFacts(7_000_000_000, 512), CLASSES).learning_rate == 2e-4
    assert plan.learning_rate(FreezeLayers(train_last=2), 7_000_000_000) == 2e-5


@pytest.mark.parametrize(
    ("world", "offload", "stage"),
    [(1, "None", 0), (2, "None", 2), (1, "Optimizer", 2), (1, "OptimizerAndParameters", 3)],
)
def test_the_offloaded_state_decides_the_zero_stage(world: int, offload: Offload, stage: int) -> None:
    assert plan.zero_stage(world, offload) == stage


@pytest.mark.parametrize(
    ("requested", "parameters", "supported", "used"),
    [
        ("Auto", 999_999_999, True, False),
        ("Auto", 1_000_000_000, True, True),
        ("Auto", 7_000_000_000, False, False),
        ("Enabled", 1, True, True),
        ("Disabled", 7_000_000_000, True, False),
    ],
)
def test_large_models_use_activation_checkpointing(
    requested: Checkpointing, parameters: int, supported: bool, used: bool
) -> None:
    base = plan.BaseFacts(parameters, 512, can_checkpoint=supported)
    chosen = plan.choose(run(activationCheckpointing=requested), 3200, 100, base, CLASSES)
    assert chosen.activation_checkpointing is used


def test_activation_checkpointing_that_the_architecture_lacks_is_refused() -> None:
    base = plan.BaseFacts(1, 512, can_checkpoint=False)
    with pytest.raises(StageFailure, match=r"CheckpointingUnsupported: training\.activationCheckpointing"):
        plan.choose(run(activationCheckpointing="Enabled"), 3200, 100, base, CLASSES)


@pytest.mark.parametrize(
    ("base", "precision", "gpus", "stage"),
    [
        ("bfloat16", "Auto", 1, 2),
        ("bfloat16", "BFloat16", 0, 2),
        ("bfloat16", "Float32", 1, 0),
        ("bfloat16", "Auto", 0, 0),
        ("float32", "BFloat16", 1, 0),
        ("float16", "Auto", 1, 0),
    ],
)
def test_weights_that_stay_bfloat16_need_zero_also_in_one_process(
    base: WeightsDtype, precision: Precision, gpus: int, stage: int
) -> None:
    asked = run(precision=precision)
    asked = asked.model_copy(update={"world": asked.world.model_copy(update={"gpus_per_node": gpus})})
    chosen = plan.choose(asked, 3200, 100, plan.BaseFacts(1, 512, base), CLASSES)
    assert (chosen.zero_stage, chosen.model_dtype) == (stage, base)


@pytest.mark.parametrize(
    ("nodes", "training", "rows", "reason", "says"),
    [
        (4, {"batchSize": 30, "microBatchSize": 1}, 1000, "BatchIndivisible", "28 or 32"),
        (4, {"batchSize": 30, "microBatchSize": 1}, 1000, "BatchIndivisible", "microBatchSize Auto"),
        (4, {"batchSize": 2}, 1000, "BatchTooSmall", "4 or more"),
        (4, {"batchSize": 2, "microBatchSize": 2}, 1000, "BatchTooSmall", "8 or more"),
        (2, {"batchSize": 16, "microBatchSize": 3}, 1000, "BatchIndivisible", "1, 2, 4 or 8"),
        (2, {"batchSize": 16, "microBatchSize": 3}, 1000, "BatchIndivisible", "12 or 18"),
        (1, {"batchSize": 64}, 63, "BatchTooLarge", "63"),
        (4, {}, 3, "BatchTooLarge", "fewer processes"),
        (1, {"maxLength": 513}, 1000, "MaxLengthTooLong", "512"),
    ],
)
def test_an_invalid_value_is_refused_with_valid_values_in_the_hint(
    nodes: int, training: dict[str, object], rows: int, reason: str, says: str
) -> None:
    with pytest.raises(StageFailure) as failure:
        plan.choose(run(nodes, **training), rows, 100, plan.BaseFacts(1, 512), CLASSES)
    assert failure.value.reason == reason
    assert says in failure.value.message + failure.value.hint

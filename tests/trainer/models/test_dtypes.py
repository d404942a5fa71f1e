import pytest

from finetune_trainer.config import ComputeType, Precision
from finetune_trainer.contract import WeightsDtype
from finetune_trainer.models.dtypes import (
    Dtypes,
    find_weights_dtype,
    may_keep_bfloat16,
    select_dtypes,
    warn_mixed,
)

SHAPES = {"a": (100, 10), "b": (10,), "c": (), "d": (20, 20)}


@pytest.mark.parametrize(
    ("base", "products", "stage", "weights", "autocast"),
    [
        ("float32", "float32", 2, "float32", False),
        ("float32", "bfloat16", 2, "float32", True),
        ("float16", "bfloat16", 2, "float32", True),
        ("bfloat16", "float32", 2, "float32", False),
        ("bfloat16", "bfloat16", 0, "float32", True),
        ("bfloat16", "bfloat16", 1, "bfloat16", False),
        ("bfloat16", "bfloat16", 2, "bfloat16", False),
        ("bfloat16", "bfloat16", 3, "bfloat16", False),
    ],
)
def test_only_the_weights_of_bfloat16_models_stay_bfloat16(
    base: WeightsDtype, products: ComputeType, stage: int, weights: ComputeType, autocast: bool
) -> None:
    dtypes = select_dtypes(base, products, stage)
    assert dtypes == Dtypes(weights, products, base)
    assert dtypes.autocast == autocast


@pytest.mark.parametrize(
    ("base", "precision", "gpus", "may"),
    [
        ("bfloat16", "BFloat16", False, True),
        ("bfloat16", "Auto", True, True),
        ("bfloat16", "Auto", False, False),
        ("bfloat16", "Float32", True, False),
        ("float16", "BFloat16", True, False),
        ("float32", "Auto", True, False),
    ],
)
def test_prepare_knows_which_runs_can_keep_bfloat16(
    base: WeightsDtype, precision: Precision, gpus: bool, may: bool
) -> None:
    assert may_keep_bfloat16(base, precision, gpus=gpus) == may


@pytest.mark.parametrize(
    ("types", "dtype", "listed"),
    [
        ({"a": "BF16", "b": "BF16", "c": "BF16", "d": "BF16"}, "bfloat16", None),
        ({"a": "F32", "b": "F64", "c": "I64", "d": "F32"}, "float32", None),
        ({"a": "BF16", "b": "I64", "c": "BF16", "d": "BF16"}, "bfloat16", None),
        ({"a": "BF16", "b": "F32", "c": "F32", "d": "F32"}, "float32", "1,000 bfloat16, 411 float32"),
        ({"a": "F16", "b": "BF16", "c": "BF16", "d": "F32"}, "float32", "1,000 float16, 400 float32, 11 bf"),
        ({"a": "I64", "b": "U8", "c": "BOOL", "d": "I8"}, "float32", None),
    ],
)
def test_a_model_with_several_data_types_is_a_float32_model(
    types: dict[str, str], dtype: WeightsDtype, listed: str | None
) -> None:
    assert find_weights_dtype(types.values()) == dtype
    warnings = warn_mixed(SHAPES, types)
    assert len(warnings) == (listed is not None)
    if listed:
        assert listed in warnings[0]
        assert "so the job uses float32" in warnings[0]

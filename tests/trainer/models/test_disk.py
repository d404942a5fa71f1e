from dataclasses import replace

import pytest

from finetune_trainer.config import FreezeLayers, Lora, Method
from finetune_trainer.models.disk import estimate_scratch
from tests.trainer.models.test_memory import FACTS, P

ADAPTER = 40_000_000
GIB = 2**30


@pytest.mark.parametrize(
    ("method", "trained", "parameters"),
    [
        ("Full", P, P),
        (FreezeLayers(train_last=1), ADAPTER, P),
        (Lora(), ADAPTER, P),
        (Lora(merge=True), ADAPTER, P + ADAPTER),
    ],
    ids=["full", "last layers", "adapter", "merged"],
)
def test_the_largest_volume_decides(method: Method, trained: int, parameters: int) -> None:
    facts = replace(FACTS, trained=trained)
    assert estimate_scratch(facts, method, "bfloat16") == pytest.approx(1.1 * 2 * parameters + 2 * GIB)
    assert estimate_scratch(facts, method, "float32") == pytest.approx(1.1 * 4 * parameters + 2 * GIB)

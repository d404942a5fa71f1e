"""A tiny Llama: rows laid end to end are kept apart, and the sums are those of torch's own cross entropy."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from finetune_trainer.contract import FailureClass
from finetune_trainer.data.batches import FILLER
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import generation_config
from finetune_trainer.models.collate import IGNORE_INDEX
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.text_generation import collate, language_model, metrics, model
from finetune_trainer.tasks.text_generation.generation import generate
from finetune_trainer.tasks.text_generation.record import extract_prompts as prompts_of
from tests.trainer.programs.truth import trained_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = trained_rows()
ALWAYS = Packing(pair=0, head=0)
SOME = [3, 0, 7, 11]


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> "PreTrainedModel":
    return language_model.load_language_model(tiny_llama, torch.float32).eval()


def alone(llama: "PreTrainedModel", number: int) -> torch.Tensor:
    """Logits of a row, shape [tokens, vocabulary]."""
    ids = torch.tensor(ROWS.row(number).astype(np.int64))[None]
    with torch.no_grad():
        logits: torch.Tensor = llama(input_ids=ids).logits[0]
    return logits


def test_rows_laid_end_to_end_have_the_logits_that_they_have_alone(llama: "PreTrainedModel") -> None:
    packed = collate.select_model_inputs(collate.pack_rows(ROWS, SOME, 2))
    packed.pop("logits_to_keep")
    expected = torch.cat([alone(llama, number) for number in SOME])
    with torch.no_grad():
        logits = llama(**packed, **model.FORWARD).logits[0]
        leaking = llama(
            **packed, **model.FORWARD, attention_mask=torch.ones_like(packed["input_ids"])
        ).logits[0]
        cached = llama(**packed, use_cache=True).logits[0]
    scale = expected.abs().max()
    assert (logits - expected).abs().max() <= 1e-5 * scale
    # So that this test can fail: with a mask, or a cache, rows see those before them.
    assert (leaking - expected).abs().max() > 1e-2 * scale
    assert (cached - expected).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("packing", [ALWAYS, None], ids=["packed", "padded"])
def test_sums_are_those_of_cross_entropy_row_by_row(
    llama: "PreTrainedModel", packing: Packing | None
) -> None:
    given = model.collate(ROWS, [*SOME, FILLER], 2, packing)
    with torch.no_grad():
        sums = model.predict(llama, given).numpy()
    assert sums[len(SOME)].tolist() == [0, 0, 0]
    for place, number in enumerate(SOME):
        logits = alone(llama, number)[:-1]
        loss_mask = torch.tensor(ROWS.loss_mask[ROWS.offsets[number] : ROWS.offsets[number + 1]][1:])
        following = torch.tensor(ROWS.row(number)[1:].astype(np.int64))
        expected = cross_entropy(logits.double()[loss_mask], following[loss_mask], reduction="sum")
        assert sums[place, metrics.NLL] == pytest.approx(float(expected), rel=1e-5)
        assert sums[place, metrics.TOKENS] == int(loss_mask.sum())
        assert sums[place, metrics.HITS] == int((logits.argmax(1) == following)[loss_mask].sum())


def test_the_loss_is_torchs_cross_entropy_to_1e_9() -> None:
    logits = torch.randn(1, 40, 30, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 30
    sums = model.predict(_Fixed(logits), {
        "input_ids": torch.zeros(1, 40, dtype=torch.int64),
        "position_ids": torch.arange(40)[None],
        "labels": labels,
        "row_index": torch.zeros(40, dtype=torch.int64),
    })  # fmt: skip
    expected = cross_entropy(logits[0], labels, reduction="none").double().mean()
    assert metrics.measure(sums.numpy())["loss"] == pytest.approx(float(expected), rel=1e-9)


class _Fixed(torch.nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.fixed = logits

    def forward(self, **_: object) -> object:
        return type("Output", (), {"logits": self.fixed})


def test_packed_and_padded_learn_the_same_labels() -> None:
    packed = model.collate(ROWS, [*SOME, FILLER], 2, ALWAYS)
    padded = model.collate(ROWS, [*SOME, FILLER], 2, None)
    for given in (packed, padded):
        there = given["labels"] != IGNORE_INDEX
        pairs = list(zip(given["row_index"][there].tolist(), given["labels"][there].tolist(), strict=True))
        assert len(pairs) == sum(
            int(ROWS.loss_mask[ROWS.offsets[number] + 1 : ROWS.offsets[number + 1]].sum()) for number in SOME
        )
        assert pairs == [
            (place, int(token))
            for place, number in enumerate(SOME)
            for token, loss_mask in zip(
                ROWS.row(number)[1:],
                ROWS.loss_mask[ROWS.offsets[number] + 1 : ROWS.offsets[number + 1]],
                strict=True,
            )
            if loss_mask
        ]
    assert len(model.collate(ROWS, [FILLER], 2, ALWAYS)["labels"]) == 1
    assert model.collate(ROWS, [FILLER], 2, None)["labels"].tolist() == [[IGNORE_INDEX]]


def test_padded_rows_have_logits_from_the_first_learnt_token_on(llama: "PreTrainedModel") -> None:
    begins = {
        n: int(ROWS.loss_mask[ROWS.offsets[n] : ROWS.offsets[n + 1]].argmax()) - 1 for n in range(len(ROWS))
    }
    some = sorted(begins, key=lambda number: begins[number])[-4:]
    first = begins[some[0]]
    assert first > 0
    padded = model.collate(ROWS, some, 2, None)
    longest = padded["input_ids"].shape[1]
    assert padded["labels"].shape == (len(some), longest - first)
    with torch.no_grad():
        outputs = llama(**collate.select_model_inputs(padded), **model.FORWARD)
        assert outputs.logits.shape[1] == longest - first
        # A model that knows nothing of this gives all logits, and the same losses.
        whole = llama(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
    assert whole.logits.shape[1] == longest
    few, all_of_them = (model.losses(given, padded["labels"]) for given in (outputs, whole))
    assert torch.allclose(few, all_of_them, rtol=1e-5)


@pytest.mark.parametrize("packing", [ALWAYS, None], ids=["packed", "padded"])
def test_the_last_logits_of_each_row(llama: "PreTrainedModel", packing: Packing | None) -> None:
    with torch.no_grad():
        found = model.logits(llama, model.collate(ROWS, SOME, 2, packing))
    expected = torch.stack([alone(llama, number)[-1] for number in SOME])
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_keep_rows_apart_are_told_from_those_that_do_not(
    tiny_llama: Path, dtype: torch.dtype
) -> None:
    assert language_model.supports_packing(language_model.load_language_model(tiny_llama, dtype).eval())
    torch.manual_seed(0)
    gpt = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3)
    assert language_model.supports_packing(GPT2LMHeadModel(gpt).to(dtype).eval())
    mamba = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    assert not language_model.supports_packing(MambaForCausalLM(mamba).to(dtype).eval())


def test_the_costs_of_packing_are_those_of_the_models_sizes(llama: "PreTrainedModel") -> None:
    assert language_model.packing_of(llama) == Packing.of(
        hidden=32, layers=2, vocabulary=llama.get_input_embeddings().weight.shape[0]
    )
    gpt = GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=32)
    assert language_model.packing_of(GPT2LMHeadModel(gpt)) == Packing.of(hidden=16, layers=3, vocabulary=50)


def test_a_model_that_reads_ahead_is_refused() -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        initializer_range=0.3,
    )  # fmt: skip
    with pytest.raises(StageFailure, match="ModelUnusable") as caught:
        language_model.supports_packing(BertLMHeadModel(config).eval())
    assert caught.value.failure is FailureClass.USER_CONFIG


def test_a_model_whose_head_is_missing_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_llama, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailure, match="ModelIncomplete") as caught:
        language_model.load_language_model(folder, torch.float32)
    assert "lm_head.weight" in caught.value.message


def test_a_prompt_ends_where_learning_begins_and_half_of_a_text_is_one() -> None:
    prompts = prompts_of(ROWS)
    assert len(prompts) == 5
    for number, (prompt, rest) in enumerate(prompts):
        trained = ROWS.loss_mask[ROWS.offsets[number] : ROWS.offsets[number + 1]]
        start = int(trained.argmax())
        assert len(prompt) == (start if start > 1 else max(1, len(trained) // 2))
        assert np.array_equal(np.r_[prompt, rest], ROWS.row(number)[: len(prompt) + len(rest)])


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [5, 9]}, {"eos_token_id": 7}, [2, 5, 9]),
        ({"eos_token_id": 5}, {}, [2, 5]),
        ({}, {"eos_token_id": [2, 7]}, [2, 7]),
        (None, {"eos_token_id": None}, [2]),
    ],
)
def test_a_text_ends_at_every_token_that_the_base_model_says_ends_it(
    tmp_path: Path, generation: dict[str, object] | None, config: dict[str, object], ends: list[int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert generation_config.find_end_tokens(tmp_path, 2) == ends


def test_samples_stop_at_the_second_token_that_ends_a_turn(
    tiny_llama: Path, llama: "PreTrainedModel", tmp_path: Path
) -> None:
    prompt = ROWS.row(0).astype(np.int64)
    (whole,) = generate(llama, [prompt], [1], 2, 8)
    assert len(whole) > 1
    folder = tmp_path / "base"
    shutil.copytree(tiny_llama, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, int(whole[0])]}))
    (stopped,) = generate(llama, [prompt], generation_config.find_end_tokens(folder, 1), 2, 8)
    assert stopped.tolist() == whole[:1].tolist()

"""The example of text generation as a user runs it: LoRA, two pods, one merged model."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster
from examples import demo, make_debian_summaries
from tests.e2e.scene import Shown, shown_by_demo

FEW = 12


@pytest.fixture(scope="module")
def shown(target: demo.Target, cluster: Cluster) -> Iterator[Shown]:
    yield from shown_by_demo(target, cluster, "debian-summaries")


@pytest.fixture(scope="module")
def predictions(shown: Shown) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown.file("evaluation/predictions.jsonl").splitlines()]


def test_it_prints_that_the_tuned_model_is_better(shown: Shown) -> None:
    delta = shown.job["status"]["evaluation"]["delta"]["metrics"]["loss"]
    assert delta["high"] < 0
    assert f"The tuned model beats the base model by {delta['value']:+.3f} loss" in shown.printed
    assert "\N{HEAVY CHECK MARK} Publish" in shown.printed


def test_the_figures_are_those_of_the_stored_sums(shown: Shown, predictions: list[dict[str, Any]]) -> None:
    evaluation = shown.job["status"]["evaluation"]
    assert evaluation["rows"] == len(predictions) == shown.job["status"]["data"]["rows"]["test"]
    tokens = sum(row["tokens"] for row in predictions)
    for model, key in (("baseline", "base"), ("tuned", "tuned")):
        loss = sum(row[f"{key}Nll"] for row in predictions) / tokens
        told = {name: figure["value"] for name, figure in evaluation[model]["metrics"].items()}
        assert told == pytest.approx(
            {
                "loss": loss,
                "perplexity": math.exp(loss),
                "tokenAccuracy": sum(row[f"{key}Hits"] for row in predictions) / tokens,
            },
            rel=1e-9,
        )


def test_the_merged_model_needs_no_peft_and_gives_these_losses(
    shown: Shown, predictions: list[dict[str, Any]], tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy

    names = shown.files()
    assert "adapter_config.json" not in names
    for name in names:
        if "/" not in name:
            (tmp_path / name).write_bytes(shown.file(name))
    make_debian_summaries.make(tmp_path / "rows")
    rows = [json.loads(line) for line in (tmp_path / "rows/test.jsonl").read_text("utf-8").splitlines()]
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16, "as the base model"
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for told in predictions[:FEW]:
        messages = rows[told["line"] - 1]["messages"]
        given = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        whole = given + messages[-1]["content"] + tokenizer.eos_token
        ids = torch.tensor([tokenizer(whole)["input_ids"]])
        with torch.no_grad():
            likelihood = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nll = -likelihood[torch.arange(ids.shape[1] - 1), ids[0, 1:]][-told["tokens"] :]
        assert tokenizer.decode(ids[0, -told["tokens"] :]) == messages[-1]["content"] + tokenizer.eos_token
        assert nll.sum().item() == pytest.approx(told["tunedNll"], rel=1e-4)
    reported = json.loads(shown.file("report.json"))["task"]["continuations"][0]
    given = tokenizer.apply_chat_template(
        rows[reported["line"] - 1]["messages"][:-1],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**given, max_new_tokens=64, do_sample=False)
    answer = tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == reported["tuned"] != reported["base"]


def test_the_report_shows_what_both_models_write(shown: Shown) -> None:
    report = json.loads(shown.file("report.json"))
    continuations = report["task"]["continuations"]
    assert len(continuations) == 5
    assert any(one["base"] != one["tuned"] for one in continuations)
    assert "Before and after" in shown.file("report.html").decode()
    assert report["task"]["packed"] is True

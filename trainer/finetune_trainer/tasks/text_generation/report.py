"""The report of a text generator, and the records that the report is made of. Pure."""

from collections.abc import Iterator, Sequence

import numpy as np

from finetune_trainer.data import tokenise
from finetune_trainer.report.markdown import cell
from finetune_trainer.report.markup import Section
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.tasks.base import EvaluationInputs, Predictions
from finetune_trainer.tasks.text_generation.baseline import BaseModel
from finetune_trainer.tasks.text_generation.metrics import TOKENS, sums_of
from finetune_trainer.tasks.text_generation.record import (
    NEW_TOKENS,
    GenerationFacts,
    continuations,
    lines,
    prompts,
)
from finetune_trainer.tasks.text_generation.sections import sections_of

PIPELINE = "text-generation"
AUTO = "AutoModelForCausalLM"
_SHOWN = 400


def record(
    inputs: EvaluationInputs,
    baseline: BaseModel,
    predictions: Predictions,
    samples: Sequence[str],
    *,
    reused: bool,
) -> GenerationFacts:
    """The texts that both models write after the prompts of the first test rows."""
    test, tokenizer = inputs.prepared.test, tokenise.load_tokenizer(inputs.base)
    given = [
        (tokenizer.decode(prompt), tokenizer.decode(rest, skip_special_tokens=True))
        for prompt, rest in prompts(test)
    ]
    return GenerationFacts(
        test_tokens=int(predictions[:, TOKENS].sum()),
        packed=baseline.packing is not None,
        new_tokens=NEW_TOKENS,
        continuations=continuations(test.locations()[: len(given)], given, baseline.continuations, samples),
        reused=reused,
    )


def prediction_lines(
    inputs: EvaluationInputs, baseline: BaseModel, predictions: Predictions
) -> Iterator[str]:
    """One JSON line for each test row, with the sums of both models."""
    return lines(inputs.prepared.test.locations(), sums_of(baseline), predictions.astype(np.float64))


def kind(record: TrainingRecord) -> str:
    """What the model is."""
    return "A text generator"


def results(record: TrainingRecord) -> str:
    """What the figures are means of."""
    facts = _facts(record)
    return (
        "The loss is the mean negative log-likelihood (natural logarithm) of the "
        f"{facts.test_tokens:,} learnt tokens of all test rows, perplexity its exponential, token accuracy "
        "the share of these tokens that the model holds for the likeliest. The base model was measured as it "
        "is, on the same tokens. The sums of each row are in `evaluation/predictions.jsonl`."
    )


def details(record: TrainingRecord) -> str:
    """What both models write."""
    facts = _facts(record)
    lines = ["| prompt (its end) | expected | base model | this model |", "|---|---|---|---|"]
    lines += [
        f"| {cell(one.prompt[-_SHOWN:])} | {cell(one.expected[:_SHOWN])} | {cell(one.base[:_SHOWN])} "
        f"| {cell(one.tuned[:_SHOWN])} |"
        for one in facts.continuations
    ]
    return (
        f"## Before and after\n\nThe first test rows; both models write greedily, at most {facts.new_tokens} "
        "tokens. Longer texts are in `report.json`.\n\n" + "\n".join(lines)
    )


def use(record: TrainingRecord) -> str:
    """Python that has the model write."""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "path/to/this/folder"\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        "if tokenizer.chat_template:\n"
        '    messages = [{"role": "user", "content": "..."}]\n'
        "    inputs = tokenizer.apply_chat_template(\n"
        '        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
        "    )\n"
        "else:\n"
        '    inputs = tokenizer("...", return_tensors="pt")\n'
        "output = model.generate(**inputs, max_new_tokens=200)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
    )


def limits(record: TrainingRecord) -> list[str]:
    """What a user must not expect of a generator."""
    return [
        "It writes what is likely, which need not be true, and may repeat what it was trained on.",
        (
            "The figures hold for texts like the test rows. The bootstrap covers the choice of test rows, "
            "not another seed, another split, or a change of what people ask."
        ),
        "A lower loss says that the expected texts are likelier, not that anybody judged what it writes.",
    ]


def sections(record: TrainingRecord) -> Sequence[Section]:
    """The samples of both models; nothing for a record without samples."""
    return sections_of(_facts(record)) if record.task else ()


def _facts(record: TrainingRecord) -> GenerationFacts:
    return GenerationFacts.model_validate(record.task)

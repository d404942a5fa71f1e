"""PURE: the report of a text generator, and its part of the training record."""

from collections.abc import Iterator, Sequence

import numpy as np

from finetune_trainer.data import tokenise
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import Section
from finetune_trainer.tasks.base import EvaluationInputs, Predictions
from finetune_trainer.tasks.text_generation.baseline import BaseModel
from finetune_trainer.tasks.text_generation.metrics import TOKENS, sums_of
from finetune_trainer.tasks.text_generation.record import (
    NEW_TOKENS,
    GenerationFacts,
    build_continuations,
    extract_prompts,
    format_prediction_lines,
)

PIPELINE = "text-generation"
AUTO_CLASS = "AutoModelForCausalLM"
CARD = "tasks/text_generation/card.md.j2"


def record(
    inputs: EvaluationInputs,
    baseline: BaseModel,
    predictions: Predictions,
    samples: Sequence[str],
    *,
    reused: bool,
) -> GenerationFacts:
    """Creates the part of the training record: the texts of both models for the first test rows."""
    test, tokenizer = inputs.prepared.test, tokenise.load_tokenizer(inputs.base)
    given = [
        (tokenizer.decode(prompt), tokenizer.decode(rest, skip_special_tokens=True))
        for prompt, rest in extract_prompts(test)
    ]
    return GenerationFacts(
        test_tokens=int(predictions[:, TOKENS].sum()),
        packed=baseline.packing is not None,
        new_tokens=NEW_TOKENS,
        continuations=build_continuations(
            test.locations()[: len(given)], given, baseline.continuations, samples
        ),
        reused=reused,
    )


def prediction_lines(
    inputs: EvaluationInputs, baseline: BaseModel, predictions: Predictions
) -> Iterator[str]:
    """Yields one JSON line for each test row, with the sums of both models."""
    return format_prediction_lines(
        inputs.prepared.test.locations(), sums_of(baseline), predictions.astype(np.float64)
    )


def serving(*, adapter: bool) -> Sequence[str]:
    """Returns the files for servers: KServe and vLLM, and Ollama for a whole model."""
    both = ("llm-inference-service.yaml", "vllm.sh")
    return both if adapter else (*both, "Modelfile")


def kind(record: TrainingRecord) -> str:
    """Returns the kind of model."""
    return "A text generator"


def results(record: TrainingRecord) -> str:
    """Describes the metrics."""
    facts = _read_facts(record)
    return (
        "The loss is the mean negative log-likelihood (natural logarithm) of the "
        f"{facts.test_tokens:,} learnt tokens of all test rows. Perplexity is the exponential of the loss. "
        "Token accuracy is the share of these tokens that the model predicts as the likeliest token. The "
        "base model was measured without changes on the same tokens. The sums of each row are in "
        "`evaluation/predictions.jsonl`."
    )


def limits(record: TrainingRecord) -> list[str]:
    """Returns the limits of a text generator."""
    return [
        "The model writes likely text, which can be false, and can repeat its training rows.",
        (
            "The figures hold for texts like the test rows. The bootstrap covers the choice of test rows, "
            "not another seed, another split, or a change of what people ask."
        ),
        "A lower loss means that the expected texts are likelier. Nobody judged the texts of the model.",
    ]


def card(record: TrainingRecord) -> dict[str, object]:
    """Returns the texts of both models."""
    facts = _read_facts(record)
    return {"continuations": facts.continuations, "new_tokens": facts.new_tokens}


def sections(record: TrainingRecord) -> Sequence[Section]:
    """Returns the section with the texts of both models; empty for a record without texts."""
    if not record.task or not _read_facts(record).continuations:
        return ()
    template = "tasks/text_generation/report.html.j2"
    return (Section("continuations", "Before and after", template, card(record)),)


def _read_facts(record: TrainingRecord) -> GenerationFacts:
    return GenerationFacts.model_validate(record.task)

"""What the model card says of a text generator. Pure."""

from finetune_trainer.report.markdown import cell
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.tasks.text_generation.facts import GenerationFacts

PIPELINE = "text-generation"
AUTO = "AutoModelForCausalLM"
_SHOWN = 400


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


def _facts(record: TrainingRecord) -> GenerationFacts:
    if record.generation is None:
        raise AssertionError("the record of a generator has no continuations")
    return record.generation

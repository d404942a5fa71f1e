"""Rows as tokens, by the tiny Llama's own tokenizer and templates: what is learnt, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - before transformers, which would otherwise do without it for good
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.config import Columns, Run
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.tokenise import load_tokenizer
from finetune_trainer.data.tokens import UntrainedMessages
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_generation import data
from finetune_trainer.tasks.text_generation.rows import Passage, parse_passage

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Red?"},
    {"role": "assistant", "content": "Green."},
    {"role": "user", "content": "Salt?"},
    {"role": "assistant", "content": "Pepper."},
]
MARKED = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}</s>{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}"
)
OTHER_END = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|tool|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FORGETFUL = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] if loop.last else '...' }}\n{% endfor %}"
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@pytest.fixture(scope="session")
def tokenizer(tiny_llama: Path) -> Any:
    return load_tokenizer(tiny_llama)


def with_template(tokenizer: Any, template: str | None) -> Any:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def run(train_on: str = "Completion") -> Run:
    return Run.model_construct(
        training=type("T", (), {"train_on": train_on}), dataset=type("D", (), {"columns": Columns()})
    )


def row(train_on: str = "Completion", **values: Any) -> Passage:
    found = parse_passage(9, values, Columns(), train_on)  # type: ignore[arg-type]
    assert isinstance(found, Passage), found
    return found


def parts(tokenizer: Any, encoded: Encoding) -> list[tuple[str, bool]]:
    """The text of a row, in pieces that are learnt or not."""
    return [(part["text"], part["trained"]) for part in data._split_by_loss(tokenizer, encoded)]  # type: ignore[index,call-overload]


def encoded(tokenizer: Any, train_on: str = "Completion", **values: Any) -> list[tuple[str, bool]]:
    (found,) = data.encode(tokenizer, [row(train_on, **values)], run(train_on))
    return parts(tokenizer, found)


def test_a_completion_is_learnt_with_its_end_and_the_row_begins_once(tokenizer: Any) -> None:
    assert encoded(tokenizer, prompt="Red and", completion=" green.") == [
        ("<s>Red and", False),
        (" green.</s>", True),
    ]
    assert encoded(tokenizer, prompt="<s>Red", completion=" green</s>") == [
        ("<s>Red", False),
        (" green</s>", True),
    ]


def test_raw_text_is_learnt_whole(tokenizer: Any) -> None:
    assert encoded(tokenizer, text="The sea is blue.") == [("<s>", False), ("The sea is blue.</s>", True)]


def test_a_prompt_has_the_tokens_that_it_has_alone(tokenizer: Any) -> None:
    """'gre' and 'green' are other tokens: in use the model is given the first."""
    (found,) = data.encode(tokenizer, [row(prompt="red and gre", completion="en")], run())
    alone = tokenizer("red and gre")["input_ids"]
    assert found.ids[: len(alone)].tolist() == alone
    whole = tokenizer("red and green")["input_ids"]
    assert whole[: len(alone)] != alone


def test_what_the_assistant_says_is_learnt_with_its_end_not_its_header(tokenizer: Any) -> None:
    assert encoded(tokenizer, messages=TALK) == [
        ("<s><|system|>\nBe brief.</s>\n<|user|>\nRed?</s>\n<|assistant|>\n", False),
        ("Green.</s>", True),
        ("\n<|user|>\nSalt?</s>\n<|assistant|>\n", False),
        ("Pepper.</s>", True),
    ]


def test_a_message_of_weight_0_is_given_not_learnt(tokenizer: Any) -> None:
    quiet = [*TALK[:2], {**TALK[2], "weight": 0}, *TALK[3:]]
    (start, first), (end, second) = encoded(tokenizer, messages=quiet)
    assert (first, second) == (False, True)
    assert "Green." in start
    assert end == "Pepper.</s>"
    assert [
        loss_mask for text, loss_mask in encoded(tokenizer, "All", messages=quiet) if "Green." in text
    ] == [False]


def test_all_learns_the_prompt_too(tokenizer: Any) -> None:
    assert encoded(tokenizer, "All", prompt="Red", completion=" green") == [
        ("<s>", False),
        ("Red green</s>", True),
    ]
    first, rest = encoded(tokenizer, "All", messages=TALK)
    assert first == ("<s>", False)
    assert rest[1]
    assert rest[0].endswith("Pepper.</s>\n")


def test_marks_of_the_template_count_and_the_end_behind_them(tokenizer: Any) -> None:
    assert encoded(with_template(tokenizer, MARKED), messages=TALK[1:]) == [
        ("<s>[user]Red?[assistant]", False),
        ("Green.</s>", True),
        ("[user]Salt?[assistant]", False),
        ("Pepper.</s>", True),
    ]


@given(
    words=st.lists(
        st.lists(
            st.sampled_from(["red", "green", "gre", "\n", "Ä", "<|user|>", "."]), min_size=1, max_size=5
        ),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_the_loss_mask_is_the_assistant_mask_of_transformers(tokenizer: Any, words: list[list[str]]) -> None:
    talk = [
        {"role": ("user", "assistant")[number % 2], "content": " ".join(["red", *content])}
        for number, content in enumerate(words[: len(words) // 2 * 2])
    ]
    marked = with_template(tokenizer, MARKED.replace("{% endgeneration %}</s>", "</s>{% endgeneration %}"))
    (found,) = data.encode(marked, [row(messages=talk)], run())
    expected = marked.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    assert found.ids.tolist() == expected["input_ids"]
    assert found.loss_mask is not None
    assert found.loss_mask.astype(int).tolist() == expected["assistant_masks"]


def test_eos_follows_where_the_template_ends_otherwise(tokenizer: Any) -> None:
    pieces = encoded(with_template(tokenizer, OTHER_END), messages=TALK[1:3])
    assert pieces == [("<|user|>Red?<|tool|>\n<|assistant|>", False), ("Green.<|tool|>\n</s>", True)]


def test_a_template_that_changes_what_it_wrote_is_refused(tokenizer: Any) -> None:
    with pytest.raises(StageFailure, match="ChatTemplateUnusable") as caught:
        encoded(with_template(tokenizer, FORGETFUL), messages=TALK)
    assert "line 9" in caught.value.message
    assert "{% generation %}" in caught.value.hint


THINKS = (
    "{% set last = namespace(user=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set last.user = loop.index0 %}{% endif %}{% endfor %}{{ bos_token }}{% for m in messages %}"
    "<|{{ m['role'] }}|>\n{% if m['role'] == 'assistant' and loop.index0 > last.user %}[]\n{% endif %}"
    "{{ m['content'] }}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""As reasoning models have: the answer after the last message of the user begins with a block of thoughts."""


def test_the_last_answer_is_learnt_where_the_template_changes_earlier_ones(tokenizer: Any) -> None:
    thinks = with_template(tokenizer, THINKS)
    start = (
        "<s><|system|>\nBe brief.</s>\n<|user|>\nRed?</s>\n<|assistant|>\nGreen.</s>\n"
        "<|user|>\nSalt?</s>\n<|assistant|>\n"
    )
    last = [(start, False), ("[]\nPepper.</s>", True)]
    assert encoded(thinks, messages=TALK) == last
    assert encoded(thinks, messages=[*TALK, {"role": "user", "content": "Thanks."}]) == last
    quiet = [*TALK[:4], {**TALK[4], "weight": 0}]
    assert encoded(thinks, messages=quiet)[-1] == ("[]\nGreen.</s>", True)
    first, rest = encoded(thinks, "All", messages=TALK)
    assert (first, rest[1]) == (("<s>", False), True)
    quiet = [*TALK[:2], {**TALK[2], "weight": 0}, *TALK[3:]]
    assert encoded(thinks, "All", messages=quiet) == [*last, ("\n", False)]


def test_answers_that_cannot_be_learnt_are_counted(tokenizer: Any) -> None:
    rows = [row(messages=TALK), row(messages=[*TALK, *TALK[1:3]]), row(messages=TALK[:3]), row(text="a")]
    found = data.encode(with_template(tokenizer, THINKS), rows, run())
    short = data.truncate(tokenizer, rows, found, 60)
    assert [encoding.untrained for encoding in short] == [1, 2, 0, 0]
    told = UntrainedMessages()
    for one, encoding in zip(rows[:1] * 2 + rows[1:], [short[0], *short], strict=True):
        if encoding.untrained:
            told.add(one.line, encoding.untrained)
    (finding,) = data.report_untrained(told, "train", "s3://d/t")
    assert (finding.code, finding.count) == ("LastAnswerOnly", 3)
    assert (
        "3 train conversations of s3://d/t, only the last answer is learnt, and 4 earlier" in finding.message
    )
    assert finding.lines[0] == "9: 1 earlier answers are not learnt"


def test_conversations_need_a_template_other_rows_none(tokenizer: Any) -> None:
    bare = with_template(tokenizer, None)
    with pytest.raises(StageFailure, match="ChatTemplateMissing"):
        encoded(bare, messages=TALK)
    assert encoded(bare, text="a")[-1] == ("a</s>", True)


def test_a_tokenizer_without_an_end_is_refused(tokenizer: Any) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(StageFailure, match="EosMissing"):
        encoded(endless, text="a")


def test_conversations_that_the_template_refuses_are_refused_with_its_words(tokenizer: Any) -> None:
    rows = [row(messages=TALK), row(text="a")]
    found = data.encode(with_template(tokenizer, STRICT + MARKED), rows, run())
    assert [data.refusal(encoding) for encoding in found] == [("ChatTemplateRefused", "no system"), None]


def cut(tokenizer: Any, most: int, **values: Any) -> tuple[str, list[tuple[str, bool]]]:
    rows = [row(**values)]
    whole = data.encode(tokenizer, rows, run())
    (short,) = data.truncate(tokenizer, rows, whole, most)
    assert len(short.ids) == min(most, len(whole[0].ids))
    return tokenizer.decode(whole[0].ids), parts(tokenizer, short)


def test_a_long_prompt_loses_its_beginning_and_keeps_bos(tokenizer: Any) -> None:
    _, pieces = cut(tokenizer, 8, prompt="abcdefghijkl", completion="xyz")
    assert pieces == [("<s>ijkl"[:3] + "jkl"[-3:], False), ("xyz</s>", True)]


def test_a_long_completion_leaves_the_prompt_half_of_the_row(tokenizer: Any) -> None:
    _, pieces = cut(tokenizer, 9, prompt="abcdefghijkl", completion="zyxzyxzyxzyx")
    assert pieces == [("<s>ijkl", False), ("zyxz", True)]


def test_texts_and_conversations_lose_their_end(tokenizer: Any) -> None:
    _, pieces = cut(tokenizer, 4, text="zyxzyx")
    assert pieces == [("<s>", False), ("zyx", True)]
    whole, pieces = cut(tokenizer, 30, messages=TALK)
    assert whole.startswith("".join(text for text, _ in pieces))


def test_a_row_without_anything_to_learn_is_refused(tokenizer: Any) -> None:
    rows = [row(messages=TALK), row(text="abc")]
    short = data.truncate(tokenizer, rows, data.encode(tokenizer, rows, run()), 6)
    assert data.refusal(short[0]) == ("NoTrainedTokens", "none of 6 tokens is learnt")
    assert data.refusal(short[1]) is None


def test_the_report_shows_what_is_learnt(tokenizer: Any) -> None:
    rows = [row(text="abc")] * 3
    whole = data.encode(tokenizer, rows, run())
    told = data.report_samples(tokenizer, rows, whole, 77)
    assert told["trainedTokens"] == 77
    assert len(told["samples"]) == 3  # type: ignore[arg-type]
    assert told["samples"][0] == {  # type: ignore[index,call-overload]
        "line": "9",
        "tokens": len(whole[0].ids),
        "parts": [{"text": "<s>", "trained": False}, {"text": "abc</s>", "trained": True}],
    }


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        (["messages"], ()),
        (["text", "more"], ()),
        (["prompt", "completion"], ()),
        (["prompt"], ("completion",)),
        (["completion"], ("prompt",)),
        (["body"], ("messages", "completion", "text")),
    ],
)
def test_a_file_needs_the_columns_of_one_kind_of_row(there: list[str], lacking: tuple[str, ...]) -> None:
    assert data.missing_columns(there, run()) == lacking


def test_only_models_that_write_from_left_to_right_are_taken() -> None:
    known = data.model_types()
    assert {"llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma3_text", "phi3"} <= known
    assert not {"bert", "roberta", "bart", "t5"} & known


def test_there_are_no_classes() -> None:
    assert data.classes([""]) == ()

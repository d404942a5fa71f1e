"""What the report shows of a text generator: what both models write after the same prompts. Pure."""

from collections.abc import Sequence

from finetune_trainer.report.markup import Html, Section, foreign, paragraph, tag
from finetune_trainer.report.numbers import count, plural
from finetune_trainer.tasks.text_generation.record import Continuation, GenerationFacts

_SHOWN, _FILE = 600, 120
"""Characters of each text, of which report.json has more, and of a file's name."""


def sections_of(facts: GenerationFacts) -> Sequence[Section]:
    """The samples of both models; nothing where there are none."""
    if not facts.continuations:
        return ()
    rows = plural(len(facts.continuations), "test row")
    return [
        Section(
            "continuations",
            "Before and after",
            (
                paragraph(
                    f"The first {rows}, not picked by anybody. Both models go on after the same prompt, "
                    f"greedily, by at most {plural(facts.new_tokens, 'token')}; longer texts are in "
                    "report.json."
                ),
                tag(
                    "p",
                    "These are rows of your data: show this page only to those who may see them.",
                    class_="careful",
                ),
                tag("div", *map(_continuation, facts.continuations), class_="examples wide"),
            ),
        )
    ]


def _continuation(one: Continuation) -> Html:
    # Of a long prompt the end decides how it goes on.
    left_out = "…" if len(one.prompt) > _SHOWN else ""
    predictions = (("expected", one.expected), ("base model", one.base), ("this model", one.tuned))
    return tag(
        "article",
        tag("p", left_out + one.prompt[-_SHOWN:], dir="auto"),
        tag("dl", *(tag("div", tag("dt", who), _said(text)) for who, text in predictions)),
        tag("small", f"line {count(one.line)} of ", foreign(one.file, _FILE)),
        class_="example",
    )


def _said(text: str) -> Html:
    return tag("dd", foreign(text, _SHOWN) if text.strip() else tag("small", "nothing"))

"""What the report shows of a text classifier: its classes, its confusions, and rows to look at. Pure."""

from collections.abc import Iterator, Sequence

from finetune_trainer.report.markup import Html, Section, bar_cell, bar_head, foreign, paragraph, table, tag
from finetune_trainer.report.numbers import count, plural
from finetune_trainer.tasks.text_classification.record import (
    EXAMPLES,
    ClassificationFacts,
    ClassRow,
    ExampleRow,
    Kind,
)

_CLASSES, _MATRIX, _PAIRS, _LABEL, _SHORT, _FILE = 50, 30, 10, 40, 24, 120
_SHADES = 8
_MARKS = {True: "right", False: "wrong"}
_KINDS: dict[Kind, tuple[str, str]] = {
    "fixed": ("Set right", "The linear probe has these wrong, this model right."),
    "broken": ("Spoilt", "The linear probe has these right, this model wrong."),
    "wrong": (
        "Wrong before and after",
        "Where this model is sure of a wrong answer, look at the label first.",
    ),
}


def sections_of(facts: ClassificationFacts) -> Sequence[Section]:
    """Classes, confusions and examples."""
    found = [_classes(facts), _confusions(facts)]
    if facts.examples:
        found.append(_examples(facts))
    return found


def _classes(facts: ClassificationFacts) -> Section:
    tuned = facts.classes["tuned"]
    before = {row.label: row for row in facts.classes["baseline"]}
    shown = sorted(tuned, key=lambda row: -row.support)[:_CLASSES]
    left = len(tuned) - len(shown)
    caption = "Classes by their number of test rows" + (f": the {len(shown)} largest" if left else "")
    head = ("class", "test rows", "precision", "recall", bar_head("F1"), "F1 of the probe", "change")
    parts = [table(caption, head, [_class(row, before[row.label]) for row in shown])]
    if left:
        parts.append(paragraph(f"The other {plural(left, 'class', 'classes')} are in report.json."))
    return Section("classes", "Classes", tuple(parts))


def _class(row: ClassRow, before: ClassRow) -> list[Html | str]:
    change = row.f1 - before.f1
    kind = "better" if change > 0 else "worse" if change < 0 else None
    shown = f"{change:+.3f}".replace("-", "\N{MINUS SIGN}") if kind else "0"
    return [
        foreign(row.label, _LABEL),
        count(row.support),
        f"{row.precision:.3f}",
        f"{row.recall:.3f}",
        bar_cell(f"{row.f1:.3f}", row.f1),
        f"{before.f1:.3f}",
        tag("td", shown, class_=kind),
    ]


def _confusions(facts: ClassificationFacts) -> Section:
    matrix = facts.confusion["tuned"]
    support = [sum(row) for row in matrix]
    largest = sorted(range(len(matrix)), key=lambda number: -support[number])[:_MATRIX]
    shown = sorted(largest)
    parts = [*_pairs(facts), _heat(facts, shown, support)]
    if len(shown) < len(matrix):
        parts.append(
            paragraph(
                f"Shown are the {len(shown)} classes with most test rows, of {count(len(matrix))}; the "
                "column “others” holds the answers that name another class. The whole matrix is in "
                "report.json."
            )
        )
    return Section("confusions", "Confusions", tuple(parts))


def _pairs(facts: ClassificationFacts) -> Iterator[Html]:
    """The mix-ups that happen most."""
    matrix = facts.confusion["tuned"]
    pairs = [
        (rows, true, given)
        for true, line in enumerate(matrix)
        for given, rows in enumerate(line)
        if rows and true != given
    ]
    if not pairs:
        yield paragraph("This model mixes up no classes: every test row is right.")
        return
    top = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_PAIRS]
    lines = [
        (
            foreign(facts.labels[true], _LABEL),
            foreign(facts.labels[given], _LABEL),
            bar_cell(count(rows), rows / top[0][0]),
            f"{rows / sum(matrix[true]):.0%}",
        )
        for rows, true, given in top
    ]
    yield table(
        "Most frequent mix-ups of this model",
        ("true class", "answered", bar_head("test rows"), "of the true class"),
        lines,
        kind="pairs",
    )


def _heat(facts: ClassificationFacts, shown: Sequence[int], support: Sequence[int]) -> Html:
    """The confusion matrix; shades are shares of the row."""
    matrix = facts.confusion["tuned"]
    numbers = {place: str(turn + 1) for turn, place in enumerate(shown)}
    rest = len(shown) < len(matrix)
    head = [
        tag("th", number, scope="col", title=facts.labels[place][:_LABEL])
        for place, number in numbers.items()
    ]
    if rest:
        head.append(tag("th", "others", scope="col"))
    lines = []
    for place, number in numbers.items():
        cells = [_cell(matrix[place][given], support[place], right=given == place) for given in shown]
        if rest:
            others = support[place] - sum(matrix[place][given] for given in shown)
            cells.append(_cell(others, support[place], right=False))
        name = tag("th", tag("span", number), " ", foreign(facts.labels[place], _SHORT), scope="row")
        lines.append(tag("tr", name, *cells))
    caption = "True classes in rows, this model's answers in columns; shades are shares of the row"
    return tag(
        "div",
        tag(
            "table",
            tag("caption", tag("span", caption)),
            tag("thead", tag("tr", tag("td"), *head)),
            tag("tbody", *lines),
            class_="heat",
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def _cell(rows: int, of: int, *, right: bool) -> Html:
    if not rows:
        return tag("td")
    shade = max(1, round(_SHADES * rows / of))
    return tag("td", count(rows), class_=f"{'r' if right else 'e'}{shade}")


def _examples(facts: ClassificationFacts) -> Section:
    parts = [
        paragraph(
            f"Against the linear probe, this model sets {plural(facts.fixed, 'test row')} right and spoils "
            f"{count(facts.broken)}. Shown are those that it is surest about, at most {EXAMPLES} of a kind: "
            "no random draw. The texts are what the model read: after its tokenizer, cut to its length."
        ),
        tag(
            "p",
            "These are rows of your data: show this page only to those who may see them.",
            class_="careful",
        ),
    ]
    for kind, (title, meaning) in _KINDS.items():
        rows = [row for row in facts.examples if row.kind == kind]
        if rows:
            parts += [
                tag("h3", title),
                paragraph(meaning),
                tag("div", *map(_example, rows), class_="examples"),
            ]
    return Section("examples", "Examples", tuple(parts))


def _example(row: ExampleRow) -> Html:
    predictions = (
        ("true class", row.label, "", None),
        ("linear probe", row.probe, "", _MARKS[row.probe == row.label]),
        ("this model", row.tuned, f" {row.probability:.0%}", _MARKS[row.tuned == row.label]),
    )
    return tag(
        "article",
        tag("p", row.text, dir="auto"),
        tag(
            "dl",
            *(
                tag(
                    "div",
                    tag("dt", who),
                    tag("dd", foreign(said, _LABEL), sure, class_=mark),
                )
                for who, said, sure, mark in predictions
            ),
        ),
        tag("small", f"line {count(row.line)} of ", foreign(row.file, _FILE)),
        class_="example",
    )

"""Reads a page as a browser would, and more strictly: every element is closed where it belongs."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

from finetune_trainer.models.method_facts import MethodFacts
from finetune_trainer.report.rendering import Section, html

VOID = {"meta", "br"}
LIMITS_OF_METHODS = (
    (MethodFacts(adapted={"k_proj": 2}, fused_experts=12_288), "The experts are not adapted"),
    (MethodFacts(output_frozen=True), "The output layer is not trained"),
)
"""What a method did to a model, and what card and page say of it."""


@dataclass
class Element:
    name: str
    attributes: dict[str, str | None]
    text: str = ""
    """All text below it."""


@dataclass
class Reader(HTMLParser):
    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        if "\n" in data and data.isspace():
            return  # between two lines of a template
        for element in self.open:
            element.text += data


def read(markup: str) -> list[Element]:
    """All elements in order; fails where they are not well nested."""
    reader = Reader()
    reader.feed(markup)
    reader.close()
    assert not reader.open
    return reader.elements


def shown(section: Section) -> str:
    """The markup of a section."""
    return drawn(section.template, section.anchor, **section.values)


def drawn(template: str, macro: str, *given: object, **values: object) -> str:
    """What a macro of a template writes."""
    return str(getattr(html().get_template(template).module, macro)(*given, **values))


def texts(markup: str, name: str) -> list[str]:
    """The text of all elements of that name."""
    return [element.text for element in read(markup) if element.name == name]

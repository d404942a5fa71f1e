"""docs/reasons.md lists every reason that the operator or the trainer gives."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from finetune_operator.names import Reason
from finetune_trainer.contract import FailureClass

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "reasons.md").read_text()
FAILURES = {"StageFailure": (1, "{}"), "Verdict": (1, "{}"), "_Case": (0, "{}")}
"""Classes of the trainer with a reason: the position of the argument, and the reason with {} in its place."""


@dataclass
class Source:
    """A module of the trainer."""

    tree: ast.Module
    makers: dict[str, tuple[int, str]] = field(default_factory=lambda: dict(FAILURES))
    """The classes and functions that get a reason as an argument; see FAILURES."""

    def find_makers(self) -> None:
        """Finds the functions that pass an argument on as a reason, whole or after a prefix."""
        for function in [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]:
            names = [argument.arg for argument in function.args.args]
            for given, template in self._given(function):
                match given:
                    case ast.Name(name) if name in names:
                        self.makers[function.name] = names.index(name), template
                    case ast.JoinedStr([ast.Constant(str(prefix)), ast.FormattedValue(ast.Name(name))]):
                        self.makers[function.name] = names.index(name), template.format(prefix + "{}")
                    case _:
                        pass

    def reasons(self, constants: dict[str, str]) -> Iterator[str]:
        """The reasons that are literals, constants, or values of a variable in a loop over literals."""
        for given, template in self._given(self.tree):
            for choice in (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,):
                match choice:
                    case ast.Constant(str(reason)):
                        yield template.format(reason)
                    case ast.Name(name) if name in constants:
                        yield template.format(constants[name])
                    case ast.Name(name):
                        yield from self._values(name)
                    case _:
                        pass

    def _given(self, tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
        """The argument that each failure gets as its reason, and its template."""
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or "FailureClass.SUCCESS" in ast.unparse(call):
                continue
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            place, template = self.makers.get(name, (len(call.args), "{}"))
            if len(call.args) > place:
                yield call.args[place], template
            elif "reason" in keywords:
                yield keywords["reason"], template
            elif name == "Finding" and ast.unparse(keywords["level"]) == "'error'":
                yield keywords["code"], "{}"

    def refusals(self) -> Iterator[str]:
        """The codes of a task's table REFUSALS: too many such rows fail Prepare with the code as reason."""
        for node in self.tree.body:
            match node:
                case ast.Assign([ast.Name("REFUSALS")], ast.Dict(keys)):
                    yield from (key.value for key in keys if isinstance(key, ast.Constant))
                case _:
                    pass

    def _values(self, variable: str) -> Iterator[str]:
        """The strings that a variable takes in loops over a tuple of tuples."""
        for loop in ast.walk(self.tree):
            if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Tuple):
                names = [node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)]
                for row in loop.iter.elts if variable in names else ():
                    value = row.elts[names.index(variable)] if isinstance(row, ast.Tuple) else row
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield value.value


@cache
def reasons_of_the_trainer() -> frozenset[str]:
    """All reasons that are literals in the code of the trainer."""
    sources = [Source(ast.parse(file.read_text())) for file in (ROOT / "trainer").rglob("*.py")]
    constants: dict[str, str] = {}
    public: dict[str, tuple[int, str]] = {}
    for source in sources:
        source.find_makers()
        public |= {name: maker for name, maker in source.makers.items() if not name.startswith("_")}
        for node in source.tree.body:
            match node:
                case ast.Assign([ast.Name(name)], ast.Constant(str(text))):
                    constants[name] = text
                case _:
                    pass
    for source in sources:
        source.makers = public | source.makers
    refused = {code for source in sources for code in source.refusals()}
    return refused | frozenset(reason for source in sources for reason in source.reasons(constants))


def test_every_reason_of_the_operator_is_documented() -> None:
    wanted = {r.value for r in Reason} | {f.value for f in FailureClass} - {FailureClass.SUCCESS.value}

    assert [reason for reason in sorted(wanted) if f"`{reason}`" not in DOCUMENT] == []


def test_every_reason_of_the_trainer_is_documented() -> None:
    assert [reason for reason in sorted(reasons_of_the_trainer()) if f"`{reason}`" not in DOCUMENT] == []


def test_every_documented_reason_of_the_trainer_is_in_its_code() -> None:
    section = DOCUMENT.split("## Reasons of the trainer\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = {reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)}

    assert sorted(documented - reasons_of_the_trainer()) == []

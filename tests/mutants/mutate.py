"""The mutants of a module: one changed operator, condition or flag each.

The operators are mutmut's, without those that change constants (numbers, strings) or make a call or an assignment
crash; negated conditions are added, which mutmut lacks. Not mutated is what decides nothing: messages (f-strings, the
arguments of `raise` and of `log`), annotations, decorators, imports, and arithmetic of literals alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import libcst as cst
import libcst.matchers as m
from mutmut.mutation import mutators

LEFT_OUT = {"operator_number", "operator_string", "operator_assignment", "operator_arg_removal"}
OPERATORS = [(kind, of) for kind, of in mutators.mutation_operators if of.__name__ not in LEFT_OUT]

DECIDES_NOTHING = (cst.Annotation, cst.Raise, cst.FormattedString, cst.Import, cst.ImportFrom, cst.Decorator)
IS_LOGGING = m.Call(func=m.Attribute(value=m.Name("log")))
FOR_TYPES = m.If(test=m.Name("TYPE_CHECKING"))
LITERAL = m.Integer() | m.Float() | m.UnaryOperation(expression=m.Integer() | m.Float())


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    code: str
    line: int
    """number of the first changed line"""
    name: str
    """that line before and after, numbered where several are alike; it stays when other lines change"""


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module's source, each once."""
    tree = cst.parse_module(source)
    places = _Places()
    tree.visit(places)
    seen, names = {source}, Counter[str]()
    for node, changed in places.found:
        code = tree.deep_replace(node, changed).code
        if code not in seen:
            seen.add(code)
            lines = enumerate(zip(source.splitlines(), code.splitlines()), 1)
            line, (was, now) = next((number, pair) for number, pair in lines if pair[0] != pair[1])
            name = f"{was.strip()} -> {now.strip()}"
            names[name] += 1
            yield Mutant(code, line, name if names[name] == 1 else f"{name} ({names[name]})")


class _Places(cst.CSTVisitor):
    """Collects (node, what replaces it)."""

    def __init__(self):
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, DECIDES_NOTHING):
            return False
        if m.matches(node, IS_LOGGING | FOR_TYPES) or _is_of_literals(node):
            return False
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                self.found += [(node, changed) for changed in operator(node)]
        if isinstance(node, (cst.If, cst.While, cst.CompIf)):
            self.found.append((node.test, _negated(node.test)))
        return True


def _negated(test: cst.BaseExpression) -> cst.BaseExpression:
    if not test.lpar:
        test = test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return cst.UnaryOperation(cst.Not(), test)


def _is_of_literals(node: cst.CSTNode) -> bool:
    if m.matches(node, m.UnaryOperation(operator=m.Minus())):
        return m.matches(node, LITERAL)
    return isinstance(node, cst.BinaryOperation) and all(
        m.matches(side, LITERAL) or _is_of_literals(side) for side in (node.left, node.right)
    )

"""The worked example of an environment: a sum that is easier with a tool.

A prompt asks for a sum. A response that ends in `<calc>12+7</calc>` is answered with its value; any other response ends
the episode, and is right when its last number is the sum.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from decimal import Decimal

from rlhf.batch import Prompt
from rlhf.environments.environment import Turn
from rlhf.errors import DataError
from rlhf.numbers import last_number, number_of

_CALL = re.compile(r"<calc>(.*?)</calc>\s*$", re.DOTALL)
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}
LONGEST = 64  # characters of an expression


class CalculatorEpisode:
    """Pays 1 for the right sum at the end, nothing on the way."""

    def __init__(self) -> None:
        self._answer = Decimal(0)

    async def reset(self, prompt: Prompt) -> None:
        """Raises DataError for a prompt without `task.answer`."""
        number = number_of((prompt.task or {}).get("answer"))
        if number is None:
            raise DataError(f"environment calculator: prompt {prompt.id} has no number as task.answer")
        self._answer = number

    async def step(self, response: str) -> Turn:
        call = _CALL.search(response)
        if call is None:
            return Turn("", float(last_number(response) == self._answer), done=True)
        return Turn(calculate(call.group(1)), 0.0, done=False)


def calculate(expression: str) -> str:
    """The value of sums, differences and products of whole numbers, or `error`."""
    try:
        if len(expression) > LONGEST:
            return "error"
        return str(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "error"


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("no arithmetic")

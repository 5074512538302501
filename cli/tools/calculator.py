"""A calculator: one expression of numbers, operators and functions of `math`, nothing else.

An expression is parsed as Python and walked node by node, so a name outside the tables, an
attribute or a text is refused before anything runs. Whole numbers are exact and bounded in size.
"""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from cli.tools.tool import ToolError

Number = int | float

LONGEST = 1_000
"""Characters of an expression."""
MOST_BITS = 13_000
"""Bits of a whole number, in the result and on the way: about 3,900 digits."""

_CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau, "inf": math.inf}
_PLAIN = """
    sqrt cbrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh
    asinh acosh atanh degrees radians hypot floor ceil trunc fabs fmod gcd lcm isqrt erf erfc
    gamma lgamma copysign
"""


def evaluate(expression: str) -> str:
    """The value as text; ToolError with a sentence for what is no expression or has no value."""
    if len(expression) > LONGEST:
        raise ToolError(f"An expression may have {LONGEST:,} characters; split it.")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        value = _value(tree.body)
    except (SyntaxError, ValueError) as error:
        raise ToolError(f"This cannot be calculated: {_reason(error)}.") from error
    except ZeroDivisionError as error:
        raise ToolError("This cannot be calculated: division by zero.") from error
    except OverflowError as error:
        raise ToolError("This cannot be calculated: the result is too large.") from error
    except TypeError as error:
        raise ToolError(f"This cannot be calculated: {error}.") from error
    except (RecursionError, MemoryError) as error:
        raise ToolError("This expression is nested too deeply; split it.") from error
    return str(value)


def _reason(error: Exception) -> str:
    return f"{error.msg}" if isinstance(error, SyntaxError) else str(error)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _kept(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _kept(_UNARY[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _kept(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _kept(_FUNCTIONS[name](*map(_value, arguments)))
    raise ToolError(_refusal(node))


def _refusal(node: ast.expr) -> str:
    known = f"numbers, + - * / // % **, {', '.join(_CONSTANTS)} and {', '.join(_FUNCTIONS)}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
        return "^ is no operator here; write ** for a power."
    return f"{ast.unparse(node)[:60]!r} is not allowed in an expression; there are {known}."


def _kept(value: Any) -> Number:
    """`value` if it is a number of a size we go on with."""
    if isinstance(value, int):
        _require_bits(value.bit_length())
    elif not isinstance(value, float):
        raise ValueError("the result is no real number")
    number: Number = value
    return number


def _require_bits(bits: float) -> None:
    if bits > MOST_BITS:
        raise OverflowError


def _power(base: Number, exponent: Number) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:
        _require_bits(base.bit_length() * max(exponent, 0))
    return base**exponent


def _factorial(number: Number) -> int:
    count = operator.index(number)  # type: ignore[arg-type]
    _require_bits(count.bit_length() * count)
    return math.factorial(count)


def _comb(total: Number, chosen: Number) -> int:
    n, k = operator.index(total), operator.index(chosen)  # type: ignore[arg-type]
    _require_bits(n.bit_length() * min(k, n - k))
    return math.comb(n, k)


def _perm(total: Number, chosen: Number) -> int:
    n, k = operator.index(total), operator.index(chosen)  # type: ignore[arg-type]
    _require_bits(n.bit_length() * k)
    return math.perm(n, k)


def _rounded(value: Number, digits: Number = 0) -> Number:
    places = operator.index(digits)  # type: ignore[arg-type]
    if abs(places) > 400:
        raise ValueError("round takes at most 400 digits")
    return round(value, places) if places else round(value)


_UNARY: dict[type, Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_BINARY: dict[type, Callable[[Number, Number], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in _PLAIN.split()},
    "abs": abs,
    "round": _rounded,
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "sum": lambda *values: sum(values),
    "pow": _power,
    "factorial": _factorial,
    "comb": _comb,
    "perm": _perm,
}

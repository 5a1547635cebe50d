r"""Weights written into a prompt: '(red apple:1.3) on snow', as is common usage among people who draw from text.

A pair of round brackets that ends in a colon and a number gives its text that weight. Weights multiply where brackets nest.
Brackets without a number are text, and so is what a backslash stands before: \( \) \: \\.
"""

from __future__ import annotations

import re
from itertools import groupby

from ornstein.core.errors import OrnsteinError

__all__ = ["LARGEST", "marked", "pieces"]

LARGEST = 10.0  # a weight above is a slip of the pen, or a time of day in brackets
ESCAPED = "():\\"
NUMBER = re.compile(r":\s*([-+]?[\d.]+)\s*\)")
SIGNS = re.compile(r"\\[()]|:\s*[-+]?[\d.]+\s*\)|\([^()]*:\s*[-+]?[\d.]")


def marked(text: object) -> bool:
    """Whether a prompt has weights, or escaped brackets, and is to be read by `pieces`."""
    return isinstance(text, str) and SIGNS.search(text) is not None


def pieces(text: str) -> list[tuple[str, float]]:
    """'a (red:1.5) apple' -> [('a ', 1.0), ('red', 1.5), (' apple', 1.0)]; the texts put together are the plain prompt.

    Brackets without a partner, a number that cannot be read, and a weight below 0 or above 10: OrnsteinError.
    """
    chars: list[str] = []
    weights: list[float] = []
    opened: list[int] = []
    at = 0
    while at < len(text):
        c, weight = text[at], NUMBER.match(text, at)
        if c == "\\" and text[at + 1 : at + 2] and text[at + 1] in ESCAPED:
            c, at = text[at + 1], at + 1
        elif c == ")" or weight:
            if not opened:
                raise _unbalanced(text, "closes what none has opened")
            start = opened.pop()
            if weight:
                _weigh(chars, weights, start, _number(weight[1], text))
                at = weight.end()
                continue
        elif c == "(":
            opened.append(len(chars))
        chars.append(c)
        weights.append(1.0)
        at += 1
    if opened:
        raise _unbalanced(text, "is never closed")
    found = []
    for weight, some in groupby(zip(chars, weights), lambda pair: pair[1]):
        found.append(("".join(c for c, _ in some), weight))
    return found or [("", 1.0)]


def _weigh(chars: list[str], weights: list[float], start: int, weight: float) -> None:
    """Take the opening bracket away and weigh all that came after it."""
    del chars[start], weights[start]
    weights[start:] = [w * weight for w in weights[start:]]


def _number(text: str, prompt: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        raise OrnsteinError(f"cannot read the weight '{text}' in '{prompt}'", "Write (text:1.3).") from None
    if not 0 <= weight <= LARGEST:
        raise OrnsteinError(f"the weight {text} in '{prompt}' is not within 0 and {LARGEST:g}",
                            r"Write \( and \) for brackets that are text.")  # fmt: skip
    return weight


def _unbalanced(text: str, what: str) -> OrnsteinError:
    return OrnsteinError(f"a bracket in '{text}' {what}", r"Pair them, or write \( and \) for brackets that are text.")

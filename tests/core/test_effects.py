"""Declared effects: order is derived, conflicts are named."""

from itertools import permutations

import pytest

from ornstein.core.effects import Effects, order
from ornstein.core.errors import OrnsteinError


def part(name: str, **effects: str):
    return type(name, (), {"effects": Effects.of(**effects)})()


def names(parts) -> list[str]:
    return [type(p).__name__ for p in parts]


def test_of_splits_at_blanks():
    assert Effects.of(reads="a b", replaces="c") == Effects(frozenset("ab"), frozenset("c"), frozenset())


def test_who_changes_a_thing_comes_before_who_reads_it():
    quantise = part("Quantise", replaces="weights", reads="lora")
    lora = part("Lora", invalidates="weights lora")
    cache = part("Cache", reads="weights", replaces="evaluation")
    for given in permutations([quantise, lora, cache]):
        assert names(order(given)) == ["Lora", "Quantise", "Cache"]


def test_without_needs_the_given_order_stays():
    parts = [part(n) for n in ("C", "A", "B")]
    assert names(order(parts)) == ["C", "A", "B"] and order([]) == []


def test_nothing_is_dropped():
    one = part("One", reads="x")
    assert order([one, one]) == [one, one]
    own = part("Own", reads="x", replaces="x")  # what a part does to what it reads is its own affair
    assert order([own]) == [own]


def test_two_owners():
    with pytest.raises(OrnsteinError, match="FirstBlock and Taylor would both decide evaluation. Use one of them."):
        order([part("FirstBlock", replaces="evaluation"), part("Taylor", replaces="evaluation attention")])


def test_a_circle():
    with pytest.raises(OrnsteinError, match="Hen, Egg each need the others to come first"):
        order([part("Hen", reads="egg", invalidates="hen"), part("Egg", reads="hen", invalidates="egg")])

"""Every pair of accelerations runs with finite output or is refused by name; who does nothing is known."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations

import pytest
import torch

from ornstein import compose
from ornstein.core import catalog
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import _SEAMS

both = pytest.mark.parametrize("backbone", compose.BACKBONES)


@cache
def pairs(backbone):
    torch.set_num_threads(1)
    return compose.matrix(backbone)


@both
def test_every_part_takes_part(backbone):
    """Alone, each changes the samples here; what fits is what its evidence says."""
    plain = compose.alone(backbone, "", compose.STEPS)
    for name in compose.parts(backbone):
        assert name in compose.exact() or not torch.equal(compose.alone(backbone, name, compose.STEPS), plain), name
    everywhere = {n for b in compose.BACKBONES for n in compose.parts(b)}
    assert everywhere == {e.name for e in catalog.entries("acceleration")}


@both
def test_every_pair_runs_or_is_refused(backbone):
    found = pairs(backbone)
    assert {frozenset((p.one, p.two)) for p in found} == {frozenset(c) for c in combinations(compose.parts(backbone), 2)}
    for p in found:
        if p.refused:
            assert p.distance == 0 and len(p.refused.split(". ")) >= 2, f"no remedy: {p}"
        else:
            assert 0 < p.skipped < 1 and 0 < p.distance < 0.5 and all(map(math.isfinite, p.without)), p
    assert any(p.refused for p in found) and any(not p.refused for p in found)


@both
def test_nobody_is_silently_ignored(backbone):
    assert not [(p.one, p.two) for p in pairs(backbone) if p.idle]


@both
def test_owners_of_one_thing_are_never_run_together(backbone):
    for p in pairs(backbone):
        if any(compose._part(backbone, p.one).effects.replaces & compose._part(backbone, p.two).effects.replaces):
            assert p.refused and "both decide" in p.refused
            assert type(compose._part(backbone, p.two)).__name__ in p.refused


@both
def test_nothing_stays_attached(backbone):
    pairs(backbone)
    net = compose.network(backbone)
    assert not _SEAMS[net].owners and not any("forward" in m.__dict__ for m in net.modules())


class Ignored:
    """A part that sits everywhere and does nothing."""

    effects = Effects.of(reads="evaluation")

    def select(self, sites):
        return [s for s in sites if s.grain == "block"]

    def start(self):
        return {}

    def around(self, site, clock, streams, run, memory):
        return run(streams)


class Refusing(Ignored):
    effects = Effects()

    def around(self, site, clock, streams, run, memory):
        raise OrnsteinError("this part does not fit", "Leave it out.")


class Faulty(Ignored):
    def around(self, site, clock, streams, run, memory):
        raise RuntimeError("a fault")


class Only:
    """A part at the sites of one role alone."""

    def __init__(self, text, role):
        self.part, self.role = catalog.build("acceleration", text), role
        self.effects, self.start, self.around = self.part.effects, self.part.start, self.part.around

    def select(self, sites):
        return [s for s in self.part.select(sites) if s.role == self.role]


@pytest.fixture
def planted(monkeypatch):
    real = compose._part
    made = {"ignored": Ignored(), "refusing": Refusing(), "faulty": Faulty()}
    monkeypatch.setattr(compose, "_part", lambda backbone, name: made.get(name) or real(backbone, name))
    compose.alone.cache_clear()
    yield
    compose.alone.cache_clear()


def test_an_idle_part_is_named_and_the_derived_order_is_told(planted):
    """It reads who computes, so whoever decides that comes first, however the pair was asked for."""
    for names in (("ignored", "firstblock"), ("firstblock", "ignored")):
        found = compose.try_pair(*names, "dit", steps=4)
        assert (found.one, found.two, found.swapped) == ("firstblock", "ignored", 0.0)
        assert found.idle == ("ignored",) and found.without[0] > 0


def test_a_refusal_on_the_way_counts_and_a_fault_is_raised(planted):
    found = compose.try_pair("refusing", "tome", "dit", steps=4)
    assert found.refused == "this part does not fit. Leave it out." and found.idle == ()
    with pytest.raises(RuntimeError, match="a fault"):
        compose.try_pair("faulty", "tome", "dit", steps=4)
    assert not any("forward" in m.__dict__ for m in compose.network("dit").modules())


def test_places_that_do_not_meet_are_told(monkeypatch):
    """Two that replace one thing are refused as a plan; where only their places are apart, the page says so."""
    mlps, attentions = "broadcast:attention=1,mlp=2,window=(0,1)", "stepreuse:at=(1,),roles=('attention',)"
    for text, apart in ((attentions, True), ("stepreuse:at=(1,),roles=('attention','mlp')", False)):
        made = {"one": Only(mlps, "mlp"), "two": catalog.build("acceleration", text)}
        monkeypatch.setattr(compose, "_part", lambda backbone, name, made=made: made[name])
        found = compose.try_pair("one", "two", "dit", steps=4)
        assert found.refused and found.apart == apart
        assert ("places that do not meet" in "\n".join(compose._refused("dit", [found]))) == apart


def test_the_page_says_what_was_found():
    """The verdicts, not the figures, which differ from machine to machine in their last digits."""
    found = [p for b in compose.BACKBONES for p in pairs(b)]
    fresh, kept = (_verdicts(text) for text in (compose.page(found), compose.PAGE.read_text(encoding="utf-8")))
    assert fresh == kept, "make it anew: python -m ornstein.compose"
    assert len(fresh) > 70


def _verdicts(text):
    rows = ([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|"))
    return [(r[0], r[1], r[-1]) for r in rows]

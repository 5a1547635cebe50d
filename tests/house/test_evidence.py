"""Every claim is tried again: the evidence of each method comes to the verdict that its card records."""

from __future__ import annotations

import time

import pytest

from ornstein import evidence
from ornstein.core import catalog

METHODS = [e for e in catalog.entries() if e.room != "recipes"]
SOFT, HARD = 5.0, 15.0  # seconds of processor time: the machine may be busy with other things
SPENT: dict[str, float] = {}


@pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.path)
def test_the_verdict_is_that_of_the_card(entry):
    began = time.process_time()
    found, recorded = evidence.check(entry.path, quick=True)
    SPENT[entry.path] = time.process_time() - began
    rows = "\n".join(f"  {r.kind:10} {r.name:32} {r.mean:.5g} +- {r.spread:.2g}  {r.metric}" for r in found.rows)
    assert found.verdict == recorded, (
        f"the card of {entry.path} says '{recorded}', its evidence '{found.verdict}':\n{rows}"
    )
    assert SPENT[entry.path] < HARD, f"{entry.path} took {SPENT[entry.path]:.1f} s of {HARD}"


def test_the_evidence_is_quick(capsys):
    slow = {path: f"{s:.1f} s" for path, s in sorted(SPENT.items(), key=lambda i: -i[1]) if s > SOFT}
    with capsys.disabled():
        print(f"\nevidence: {len(SPENT)} methods in {sum(SPENT.values()):.0f} s; over {SOFT:.0f} s: {slow or 'none'}")
    assert all(s < HARD for s in SPENT.values())

"""The benchmark of steering: who takes part, at which cost, and that a table comes out that says so."""

from __future__ import annotations

import json

import pytest
import torch

from ornstein import bench_steering as bench
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError


def test_every_steering_takes_part_or_is_left_out_with_a_reason():
    wanted, left = bench.contenders()
    named = {catalog.parse(c.part)[0] for c in wanted if c.part}
    assert named | set(left) == {e.name for e in catalog.entries("steering")} and not named & set(left)
    assert all(len(why) > 20 for why in left.values())


def test_none_asks_more_often_than_the_others(tmp_path):
    settings = bench.Settings(("mixture",), 20, 2)
    done = bench.measure(settings)
    by_name = {x.name: x for x in done.lines}
    plain = by_name["one trajectory"]
    for x in done.lines:
        assert x is plain or 0.85 * bench.NFE <= x.nfe <= bench.NFE, x.name
        assert (x.reward_calls > 0) == bool(x.part) and x.held[1] <= x.held[0] <= x.held[2]
    assert plain.nfe == bench.STEPS and by_name["best_of_n"].reward[0] > plain.reward[0]
    files = bench.write(done, tmp_path)
    told, text = json.loads(files[0].read_text()), files[1].read_text()
    assert len(told["lines"]) == len(done.lines) and all(f"| {x.name} |" in text for x in done.lines)
    assert "Surely more reward than the best of 8" in text and "w2sd: it reflects" in text


def test_digits_are_asked_without_their_labels():
    here = bench.ground("digits")
    x, cond = torch.zeros(2, *here.shape), {"label": torch.tensor([1, 7])}
    said = bench.Metered(here.base, here.null)(x, 0.5, cond).x0
    assert torch.allclose(said[0], said[1], atol=1e-5) and not torch.allclose(here.base(x, 0.5, cond).x0[0], said[0], atol=1e-3)
    assert here.judge(torch.zeros(1, 1, 8, 8), torch.tensor([3])).item() in (0.0, 1.0)


def test_a_share_has_an_exact_interval():
    value, low, high = bench.interval(torch.ones(20, dtype=torch.float64))
    assert (value, high) == (1, 1) and 0.8 < low < 0.9
    value, low, high = bench.interval(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    assert value == 1.5 and round((high - low) / 2, 2) == 1.27


@pytest.mark.parametrize("act", [lambda: bench.Settings(("emoji",)), lambda: bench.Settings(count=7),
                                 lambda: bench.contenders(bench.Settings(only=("svd",)))])  # fmt: skip
def test_what_cannot_be_compared_is_refused(act):
    with pytest.raises(OrnsteinError):
        act()

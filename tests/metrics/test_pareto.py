"""Pareto fronts: dominance by hand, shares of resamples, protocol, errors."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.pareto import Pareto, undominated
from ornstein.metrics.prdc import PRDC


def cloud(seed, n=60, scale=1.0):
    return scale * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_dominance_by_hand():
    points = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.5, 0.5], [1.0, 0.0, 0.5], [0.9, 0.0, 0.6]])
    assert undominated(points).tolist() == [True, True, False, True, True]
    assert undominated(points.flip(0)[None].expand(3, -1, -1))[2].tolist() == [True, True, False, True, True]
    assert undominated(torch.zeros(3, 2)).all(), "equals do not dominate each other"


def setting(**more):
    sets = {"good": cloud(0), "narrow": cloud(1, scale=0.2), "wrong": cloud(2, scale=0.2)}
    right = {"good": 0.5, "narrow": 1.0, "wrong": 0.2}
    scores = {k: (torch.arange(60) < 60 * v).double() for k, v in right.items()}
    return Pareto(extractor="precomputed:x", **more)(sets, scores, cloud(9)), sets, scores


def test_points_of_three_settings():
    points, sets, _ = setting()
    assert [p.name for p in points] == ["good", "narrow", "wrong"] and [p.on_front for p in points] == [True, True, False]
    assert points[0].share == 1 and points[1].share > 0.95 and points[2].share < 0.5
    for p in points:
        found = PRDC(extractor="precomputed:x").all(sets[p.name], cloud(9))
        assert p.diversity.value == found["coverage"].value and p.realism.value == found["precision"].value
        assert p.diversity.floor == found["coverage"].floor and p.realism.extractor == "precomputed:x"
        for m in (p.consistency, p.diversity, p.realism):
            assert m.low <= m.value <= m.high and m.n == 60
    assert points[0].consistency.value == 0.5 and points[0].consistency.low < 0.5 < points[0].consistency.high
    assert "wrong: dominated" in str(points[2]) and points == setting()[0] and points != setting(seed=1)[0]


def test_the_share_tells_a_tie_from_a_lead():
    """Two draws of one law: each leads by chance; with a third far below in everything."""
    sets = {"a": cloud(0), "b": cloud(1), "far": cloud(2) + 50}
    scores = {k: (torch.rand(60, generator=torch.Generator().manual_seed(i)) < p).double()
              for i, (k, p) in enumerate((("a", 0.5), ("b", 0.5), ("far", 0.05)))}  # fmt: skip
    a, b, far = Pareto(extractor="precomputed:x")(sets, scores, cloud(9))
    assert far.share == 0 and not far.on_front and 0.3 < min(a.share, b.share) < 1


def test_resamples_share_the_reference_and_spread_as_draws_do():
    half, quarter = (torch.arange(60) < 30).double(), (torch.arange(40) < 10).double()
    drawn = Pareto(rounds=4000)._resampled([[half, quarter, half], [1 - half, quarter, half]])
    assert torch.equal(drawn[:, 0, 1], drawn[:, 1, 1]) and torch.equal(drawn[:, 0, 0], drawn[:, 0, 2])
    assert not torch.equal(drawn[:, 0, 2], drawn[:, 1, 2]), "each setting's pictures are drawn for themselves"
    for values, p, n in ((drawn[:, 0, 0], 0.5, 60), (drawn[:, 0, 1], 0.25, 40)):
        assert values.mean().item() == pytest.approx(p, abs=0.01)
        assert values.std().item() == pytest.approx((p * (1 - p) / n) ** 0.5, rel=0.06)


def test_recall_and_density():
    points, sets, scores = setting(diversity="recall", realism="density", k=3)
    assert points[0].diversity.name == "recall@3" and points[0].realism.name == "density@3"
    found = PRDC(k=3, extractor="precomputed:x").all(sets["narrow"], cloud(9))
    assert (points[1].diversity.value, points[1].realism.value) == (found["recall"].value, found["density"].value)


def test_errors():
    sets, one = {"a": cloud(0), "b": cloud(1)}, torch.ones(60)
    pareto = Pareto(extractor="precomputed:x")
    for given, scores, words in (({"a": cloud(0)}, {"a": one}, "two settings or more"), (sets, {"a": one}, "two settings or more"),
                                 (sets | {"b": cloud(1, 30)}, {"a": one, "b": one[:30]}, r"settings of \[30, 60\] pictures"),
                                 (sets, {"a": one, "b": one[:5]}, r"\[5\] scores for 60 pictures of 'b'"),
                                 (sets, {"a": one, "b": one * float("nan")}, "scores of 'b' hold NaN")):
        with pytest.raises(OrnsteinError, match=words):
            pareto(given, scores, cloud(9))
    with pytest.raises(OrnsteinError, match="Did you mean 'coverage'"):
        Pareto(diversity="coverag")
    with pytest.raises(OrnsteinError, match="Did you mean 'density'"):
        Pareto(realism="densty")
    with pytest.raises(OrnsteinError, match="k=0"):
        Pareto(k=0)

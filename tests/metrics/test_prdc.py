"""Precision, recall, density, coverage: sets with known answers, and the definition by loops."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.prdc import PRDC, per_sample, reach

FOUR = ("precision", "recall", "density", "coverage")


def cloud(n, seed=0, d=3, at=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + at


def figures(g, r, k=5):
    return {name: m.value for name, m in PRDC(k=k, extractor="precomputed:x").all(g, r).items()}


def test_the_same_set_and_sets_far_apart():
    x = cloud(60)
    same = figures(x, x.clone())
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert same["density"] == pytest.approx((5 + 1) / 5, abs=0.35)  # a sample lies in its own ball too
    assert figures(x, cloud(60, 1, at=100.0)) == dict.fromkeys(FOUR, 0.0)


def test_a_line_worked_by_hand():
    r, g = torch.arange(12.0)[:, None].double(), torch.full((12, 1), 3.4).double() + 1e-3 * torch.arange(12)[:, None]
    found = per_sample(g, r, 1)  # every real ball has radius 1: those of 3 and 4 hold 3.4, and no other does
    assert found["precision"].tolist() == [1.0] * 12 and found["density"].tolist() == [2.0] * 12
    assert found["coverage"].tolist() == [0.0] * 3 + [1.0] * 2 + [0.0] * 7
    assert found["recall"].sum() == 0  # generated balls have radius 0.001 and reach no integer
    rim = per_sample(torch.full((2, 1), 6.0).double(), r, 1)
    assert rim["density"].tolist() == [3.0, 3.0], "the rims of 5 and 7 count"
    assert reach(r, 2).tolist() == [2.0] + [1.0] * 10 + [2.0]


def test_half_of_the_modes_loses_recall_not_precision():
    left, right = cloud(80, 1, at=-20.0), cloud(80, 2, at=20.0)
    found = figures(cloud(80, 3, at=-20.0), torch.cat([left, right]))
    assert found["precision"] > 0.9 and found["recall"] == pytest.approx(0.5, abs=0.05)
    assert found["coverage"] == pytest.approx(0.5, abs=0.05)
    found = figures(torch.cat([left, right]), cloud(80, 3, at=-20.0))
    assert found["precision"] == pytest.approx(0.5, abs=0.05) and found["recall"] > 0.9
    assert found["density"] == pytest.approx(0.5, abs=0.15) and found["coverage"] > 0.9


def test_the_definition_by_loops():
    g, r, k = cloud(13, 0, at=0.4), cloud(11, 1), 2

    def radius(x, i):
        return sorted((x[i] - x[j]).norm().item() for j in range(len(x)) if j != i)[k - 1]

    inside = [[(a - b).norm().item() <= radius(r, i) for i, b in enumerate(r)] for a in g]
    found = per_sample(g, r, k)
    assert found["precision"].tolist() == [float(any(row)) for row in inside]
    assert found["density"].tolist() == [sum(row) / k for row in inside]
    assert found["coverage"].tolist() == [float(any(row[i] for row in inside)) for i in range(11)]
    near = [any((a - b).norm().item() <= radius(g, j) for j, a in enumerate(g)) for b in r]
    assert found["recall"].tolist() == [float(v) for v in near]


def test_chunks_agree(monkeypatch):
    g, r = cloud(40, 0, at=0.5), cloud(30, 1)
    whole = per_sample(g, r, 3)
    monkeypatch.setattr("ornstein.metrics.layers.balls.ROWS", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), per_sample(g, r, 3).values()))


def test_interval_floor_and_names():
    found = PRDC(k=3, extractor="precomputed:x").all(cloud(60, 5), cloud(60, 6))
    assert found["recall"] == PRDC("recall", k=3, extractor="precomputed:x")(cloud(60, 5), cloud(60, 6))
    assert found["coverage"].name == "coverage@3" and 0.5 < found["precision"].floor <= 1
    full = PRDC(extractor="precomputed:x")(cloud(60), cloud(60).clone())
    assert full.value == full.high == 1 and 0.9 < full.low < 1


def test_bad_settings():
    with pytest.raises(OrnsteinError, match="unknown prdc quantity 'recal'. Did you mean 'recall'"):
        PRDC("recal")
    with pytest.raises(OrnsteinError, match="Give k >= 1"):
        PRDC(k=0)
    with pytest.raises(OrnsteinError, match="11 samples are too few. Give at least 12"):
        PRDC(extractor="precomputed:x")(cloud(11), cloud(40))

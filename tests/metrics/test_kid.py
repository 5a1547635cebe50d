"""KID: the definition by loops, no bias, blocks, interval."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.kid import KID, mmd2, weights


def sets(seed=0, n=7, m=5, d=3):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64),
            0.5 + torch.randn(m, d, generator=generator, dtype=torch.float64))


def by_loops(g, r, degree=3):
    def k(a, b):
        return ((a @ b).item() / len(a) + 1) ** degree

    n, m = len(g), len(r)
    gg = sum(k(g[i], g[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    rr = sum(k(r[i], r[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return gg + rr - 2 * sum(k(a, b) for a in g for b in r) / (n * m)


def test_the_definition():
    g, r = sets()
    for degree in (1, 3):
        assert KID("precomputed:x", degree=degree)(g, r).value == pytest.approx(by_loops(g, r, degree), rel=1e-12)


def test_weights_leave_out_a_sample_with_its_own_copy():
    g, r = sets()
    generator = torch.Generator().manual_seed(0)
    w, v = weights(7, 1, generator)[1], weights(5, 1, generator)[1]
    assert w.sum() == 7 and v.sum() == 5
    found = mmd2(g, r, 3, 1, torch.Generator().manual_seed(0))[1].item()

    def k(a, b):
        return (a @ b.T / 3 + 1) ** 3

    def within(x, u):
        keep = u[:, None] * u * (1 - torch.eye(len(u)))
        return (keep * k(x, x)).sum() / keep.sum()

    truth = within(g, w) + within(r, v) - 2 * (w[:, None] * v * k(g, r)).sum() / 35
    assert found == pytest.approx(truth.item(), rel=1e-10)


def test_unbiased_at_small_sizes():
    generator, values = torch.Generator().manual_seed(0), []
    for _ in range(300):
        x, y = torch.randn(2, 8, 4, generator=generator, dtype=torch.float64)
        values.append(mmd2(x, y, 3, 0, generator)[0].item())
    values = torch.tensor(values)
    assert abs(values.mean()) < 3 * values.std() / 300**0.5 and (values < 0).any()


def test_blocks_agree_with_the_whole():
    g, r = sets(n=300, m=260)
    whole, cut = KID("precomputed:x", rounds=10)(g, r), KID("precomputed:x", block=60, rounds=10)(g, r)
    assert cut.value == pytest.approx(whole.value, rel=0.3) and cut.value != whole.value
    g, r = sets(n=20, m=15)
    metric = KID("precomputed:x", block=5, rounds=10)
    once = metric(g, r).value
    for side in (0, 1):
        for i in range((20, 15)[side]):
            moved = [g.clone(), r.clone()]
            moved[side][i] += 5
            assert metric(*moved).value != pytest.approx(once, rel=1e-6), "every sample counts"
    g, r = sets(n=4, m=50)
    assert KID("precomputed:x", block=10, rounds=10)(g, r).n == 4


def test_the_interval_covers_the_truth():
    generator, found = torch.Generator().manual_seed(0), []
    metric = KID("precomputed:x", rounds=60)
    for _ in range(80):
        x, y = torch.randn(2, 60, 3, generator=generator, dtype=torch.float64)
        found.append(metric(x + 0.5, y))
    truth = torch.stack([torch.tensor(f.value) for f in found]).mean().item()
    assert 68 <= sum(f.low <= truth <= f.high for f in found) <= 80
    assert all(abs(f.floor) < 20 * truth for f in found)


def test_bad_settings():
    with pytest.raises(OrnsteinError, match="block >= 2"):
        KID(block=1)

"""MMD, Wasserstein and KL: definitions by loops, closed forms, sizes, errors."""

import math

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.kl import KL, exact, nearest
from ornstein.metrics.mmd import MMD, of_mixtures
from ornstein.metrics.wasserstein import Wasserstein, assigned, on_a_line, sliced
from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture


def sets(n=7, m=5, d=3, seed=0, gap=0.5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64),
            gap + torch.randn(m, d, generator=generator, dtype=torch.float64))


def test_mmd_is_its_definition():
    g, r = sets()

    def k(a, b):
        return math.exp(-(a - b).square().sum().item() / (2 * 0.7**2))

    gg = sum(k(g[i], g[j]) for i in range(7) for j in range(7) if i != j) / 42
    rr = sum(k(r[i], r[j]) for i in range(5) for j in range(5) if i != j) / 20
    want = gg + rr - 2 * sum(k(a, b) for a in g for b in r) / 35
    assert MMD("precomputed:x", 0.7, False, 1.0)(g, r).value == pytest.approx(want, rel=1e-10)
    found = MMD("precomputed:x", 0.7)(5 * g, r)
    units = [x / x.norm(dim=1, keepdim=True) for x in (g, r)]
    assert found.value == pytest.approx(1000 * MMD("precomputed:x", 0.7, False, 1.0)(*units).value, rel=1e-9)
    assert found.unit == "1/1000" and found.name == "mmd h=0.7"
    with pytest.raises(OrnsteinError, match="different name"):
        found.better_than(MMD("precomputed:x", 0.7, False)(g, r))


def test_the_exact_mmd_of_mixtures_by_many_samples():
    p, q = Mixture.random(Flow(), 2, 3, 0.5), Mixture.random(Flow(), 2, 2, 0.9, seed=1)
    law = [(m.weights, m.means, m.stds) for m in (p, q)]
    truth = of_mixtures(*law, 0.8)
    found = MMD("precomputed:x", 0.8, False, 1.0, block=1500, rounds=20)(p.sample(6000, 0), q.sample(6000, 1))
    assert abs(found.value - truth) < 2.5 * (found.high - found.value) / 1.96 and abs(found.value - truth) < 0.05 * truth
    assert of_mixtures(law[0], law[0], 0.8) == pytest.approx(0, abs=1e-15)
    one, other = (tuple(torch.tensor(v) for v in ([1.0], [[m]], [[s]])) for m, s in ((0.0, 0.3), (2.0, 0.4)))
    h2, c = 0.25, 2 * 0.09
    want = (h2 / (h2 + c)) ** 0.5 + (h2 / (h2 + 0.32)) ** 0.5 - 2 * (h2 / (h2 + 0.25)) ** 0.5 * math.exp(-4 / (2 * (h2 + 0.25)))
    assert of_mixtures(one, other, 0.5) == pytest.approx(want, rel=1e-6)


def test_wasserstein_on_a_line():
    g, r = torch.tensor([[0.0], [1.0], [5.0]]).double(), torch.tensor([[1.0], [7.0], [0.0]]).double()
    assert on_a_line(g, r) == pytest.approx((4 / 3) ** 0.5) == pytest.approx(assigned(g, r))
    assert on_a_line(g[:2], r[:1]) == pytest.approx((1 / 2) ** 0.5)
    a, b = sets(6, 4, 1)
    spread_out = on_a_line(a.repeat_interleave(2, 0), b.repeat_interleave(3, 0))  # both laws as 12 equal atoms
    assert on_a_line(a, b) == pytest.approx(spread_out, rel=1e-12) == pytest.approx(on_a_line(b, a), rel=1e-12)
    assert on_a_line(a, a.repeat_interleave(3, 0)) == pytest.approx(0, abs=1e-12)


def test_wasserstein_in_the_plane_and_beyond():
    g, r = sets(40, 40, 3)
    assert assigned(g, g + 2) == pytest.approx(2 * 3**0.5) and assigned(g, g.flip(0)) == pytest.approx(0, abs=1e-7)
    assert sliced(g, g + 2, 4000) == pytest.approx(2, rel=0.03), "a shift loses sqrt(D) when sliced"
    assert sliced(g, r) <= assigned(g, r) <= 3 * sliced(g, r)
    found = Wasserstein("precomputed:x")(g, r)
    assert found.value == pytest.approx(sliced(g, r)) and found.name == "sliced-wasserstein" and 0 < found.floor < found.value
    whole = Wasserstein("precomputed:x", "assignment", rounds=10)(g, r)
    assert whole.value == pytest.approx(assigned(g, r)) and whole.name == "wasserstein"
    with pytest.raises(OrnsteinError, match="different name"):
        found.better_than(whole)
    with pytest.raises(OrnsteinError, match="40 and 20 samples cannot be assigned.*choose sliced"):
        Wasserstein("precomputed:x", "assignment")(g, r[:20])
    with pytest.raises(OrnsteinError, match="Did you mean 'sliced'"):
        Wasserstein(method="slice")


def test_kl_is_its_definition():
    g, r = sets(9, 6, 2)

    def reach(x, others, k):
        return sorted((x - o).norm().item() for o in others)[k - 1]

    total = sum(math.log(reach(g[i], r, 2) / reach(g[i], [g[j] for j in range(9) if j != i], 2)) for i in range(9))
    assert nearest(g, r, 2) == pytest.approx(2 * total / 9 + math.log(6 / 8), rel=1e-10)
    found = KL("precomputed:x", k=2)(*sets(60, 80, 2))
    assert found.name == "kl@2" and found.unit == "nats" and found.low < found.value < found.high
    with pytest.raises(OrnsteinError, match="copies no density"):
        KL("precomputed:x", k=1)(g.repeat(2, 1), r)
    with pytest.raises(OrnsteinError, match="k=0"):
        KL(k=0)


def test_kl_interval_is_as_wide_as_the_seeds_differ():
    made = [KL("precomputed:x")(*sets(200, 200, 2, seed)) for seed in range(25)]
    deviation = torch.tensor([m.value for m in made]).std().item()
    width = sum(m.high - m.low for m in made) / len(made) / (2 * 1.96)
    assert 0.6 < width / deviation < 1.6


def test_exact_kl():
    p, q = (Mixture(torch.zeros(1, 2), torch.tensor(s), Flow()) for s in (1.0, 2.0))
    x = p.sample(20_000, 0)
    found = exact(p.log_density(x), q.log_density(x))
    assert found.value == pytest.approx(2 * (math.log(2) - 3 / 8), abs=0.02) and found.low < found.value < found.high
    with pytest.raises(OrnsteinError, match="one of each"):
        exact(torch.zeros(3), torch.zeros(4))
    with pytest.raises(OrnsteinError, match="not a number"):
        exact(torch.zeros(3), torch.full((3,), math.nan))


def test_settings_that_make_no_sense():
    for part, settings in ((MMD, {"bandwidth": 0.0}), (MMD, {"rounds": 3}), (Wasserstein, {"directions": 0}), (KL, {"rounds": 2})):
        with pytest.raises(OrnsteinError, match="Give"):
            part(**settings)

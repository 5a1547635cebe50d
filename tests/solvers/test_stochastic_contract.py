"""What a stochastic solver promises: its weak order on an uneven grid, and the right law, reckoned without chance."""

import math

import pytest
import torch
from journeys import ends_near_the_blobs, rows_are_alone

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.prediction import Output, Prediction
from ornstein.core.process import grid
from ornstein.evidence.solvers._law import law
from ornstein.solvers.ddpm import DDPM, left_over
from ornstein.solvers.layers.stochastic import adams, ancestral, decayed, split, weights
from ornstein.testbeds import Mixture

DOUBLE = torch.float64
SPAN = {"flow": (0.9, 0.3), "vp": (0.85, 0.25)}
MEAN, STD = 0.75, 0.5

# spec: eta of the SDE that it follows, None where that changes with the steps
WALKS = {
    "ddpm": 1, "ddim:eta=0.6": 0.36, "euler_ancestral": 1, "euler_ancestral:eta=0.5": 0.25, "euler_ancestral:down=flow": 1,
    "dpmpp_sde:kind='1S'": 1, "dpmpp_sde": 1, "dpmpp_sde:slope=heun": 1, "dpmpp_sde:eta=0.5": 0.5, "dpmpp_sde:kind='3M'": 1,
    "dpmpp_sde:kind='3M',faithful=True": 1, "dpmpp_sde:kind='2S'": 1, "sa_solver:taylor=True": 1,
    "sa_solver:predictor=2,corrector=0": 1, "sa_solver:predictor=1,corrector=0": 1, "sa_solver:predictor=1,corrector=2": 1,
    "edm_heun:churn=2,steps={n}": None, "edm_heun:churn=5,steps={n}": None}  # fmt: skip
ODES = ["euler_ancestral:eta=0", "euler_ancestral:eta=0,down=flow", "dpmpp_sde:kind='1S',eta=0", "dpmpp_sde:eta=0",
        "dpmpp_sde:slope=heun,eta=0", "dpmpp_sde:kind='2S',eta=0", "sa_solver:tau=0,predictor=1,corrector=1",
        "sa_solver:tau=0,predictor=2,corrector=0", "sa_solver:tau=0,predictor=1,corrector=2", "tcd:gamma=0",
        "sa_solver:tau=0,predictor=2,corrector=3", "edm_heun"]  # fmt: skip
EVERY = ["dpmpp_sde:kind='3M'", "dpmpp_sde:kind='2S'", "dpmpp_sde:kind='3M',eta=0", "sa_solver:predictor=3,corrector=3",
         "sa_solver:low=0.3,high=2", "sa_solver:predictor=1,corrector=3", "euler_ancestral:down=flow",
         "edm_heun:churn=3,steps=8", "edm_heun:churn=3,low=0.5,high=2,steps=8", "ddpm:variance=large"]  # fmt: skip


def solver_of(spec: str, steps: int = 0):
    return catalog.build("solvers", spec.replace("{n}", str(steps)))


def uneven(early: float, late: float, steps: int) -> list[float]:
    h = torch.tensor([1.0, 2.0], dtype=DOUBLE).repeat(steps // 2)
    return (early - torch.cat([torch.zeros(1), h.cumsum(0)]) / h.sum() * (early - late)).tolist()


def error(spec: str, process: str, steps: int) -> float:
    """Of mean and deviation together, started beside the marginal: (v + sigma^2)^(1 + eta) brings back the variance."""
    solver, made, eta = solver_of(spec, steps), catalog.build("processes", process), WALKS.get(spec)
    shift, wide = (0.3, 1.2) if eta is not None else (0.0, 1.0)
    times = uneven(*SPAN[process], steps)
    like = torch.zeros((), dtype=DOUBLE)
    early, late = made.at(times[0], like), made.at(times[-1], like)
    before, after = STD**2 + early.sigma**2, STD**2 + late.sigma**2
    shrink = (after / before) ** ((1 + (eta or 0)) / 2)
    mean = late.a * (MEAN + shift * shrink)
    std = late.a * (after + (wide**2 - 1) * before * shrink**2).sqrt()
    got = law(solver, made, times, MEAN, STD, shift, wide)
    return abs(got[0] - mean.item()) + abs(got[1] - std.item())


@pytest.mark.parametrize("process", SPAN)
@pytest.mark.parametrize("spec", WALKS)
def test_weak_order_on_an_uneven_grid(spec, process):
    measured = math.log2(error(spec, process, 64) / error(spec, process, 128))
    solver = solver_of(spec, 64)
    assert solver.order == 0 and abs(measured - getattr(solver, "weak_order", 1)) < 0.3, f"measured {measured:.2f}"


@pytest.mark.parametrize("process", SPAN)
@pytest.mark.parametrize("spec", ["sa_solver", "sa_solver:tau=0.5", "sa_solver:predictor=3,corrector=3"])
def test_sa_solver_is_at_least_of_its_weak_order(spec, process):
    """Its leading term is small: the measured order comes down to 2 from above."""
    WALKS.setdefault(spec, solver_of(spec).tau ** 2)
    measured = math.log2(error(spec, process, 128) / error(spec, process, 256))
    assert solver_of(spec).weak_order == 2 and 1.9 < measured < 2.9, f"measured {measured:.2f}"


@pytest.mark.parametrize("process", SPAN)
@pytest.mark.parametrize("spec", ["lcm", "tcd"])
def test_where_more_steps_do_not_help(spec, process):
    solver, made = solver_of(spec), catalog.build("processes", process)
    end = made.at(SPAN[process][1], torch.zeros((), dtype=DOUBLE))
    std = (end.a**2 * STD**2 + end.s**2).sqrt().item()
    few, many = (std - law(solver, made, uneven(*SPAN[process], n), MEAN, STD)[1] for n in (32, 256))
    assert solver.weak_order == 0 and 0.7 * few < many and many > 0.02


@pytest.mark.parametrize("process", ["flow", "vp", "vp:schedule=linear", "edm"])
@pytest.mark.parametrize("spec", [s for s in WALKS if "steps" not in s] + ["sa_solver", "sa_solver:low=0.05,high=1"])
def test_the_law_from_the_prior_to_the_data(spec, process):
    made = catalog.build("processes", process)
    times = grid(made, 150, "karras" if process == "edm" else "uniform").tolist()
    mean, std = law(solver_of(spec), made, times, MEAN, STD)
    bound = 0.03 if getattr(solver_of(spec), "weak_order", 1) == 1 else 0.01
    assert abs(mean - MEAN) < 1e-6 and abs(std - STD) < bound, (mean, std)


@pytest.mark.parametrize("process", ["flow", "vp", "edm"])
def test_optimal_variance_is_exact_for_a_gaussian(process):
    """Theorem 1 of Analytic-DPM: at any size of step; the small and the large one are not."""
    made, times = catalog.build("processes", process), [0.85, 0.5, 0.2]
    end = made.at(times[-1], torch.zeros((), dtype=DOUBLE))
    std = (end.a**2 * STD**2 + end.s**2).sqrt().item()
    exact = DDPM("optimal", lambda logsnr: STD**2 / (1 + STD**2 * logsnr.exp()))
    assert abs(law(exact, made, times, MEAN, STD)[1] - std) < 1e-12
    assert law(DDPM("small"), made, times, MEAN, STD)[1] < std - 1e-3 and law(DDPM("large"), made, times, MEAN, STD)[1] > std + 1e-3


def test_left_over_is_measured():
    made = catalog.build("processes", "vp")
    one = Mixture(torch.full((1, 1), MEAN), torch.tensor(STD), made)
    left = left_over(one, one.sample(20000), torch.linspace(0.1, 0.9, 9, dtype=DOUBLE))
    for t in (0.1, 0.5, 0.9):
        logsnr = made.at(t, torch.zeros((), dtype=DOUBLE)).logsnr
        assert abs(left(logsnr) / (STD**2 / (1 + STD**2 * logsnr.exp())) - 1) < 0.03
    assert left(torch.tensor([-99.0, 99.0]).reshape(2, 1)).shape == (2, 1)


def test_range_lies_between_small_and_large():
    made = catalog.build("processes", "vp")
    one = Mixture(torch.full((1, 1), MEAN), torch.tensor(STD), made)

    def learned(place: float):
        def denoise(x, t):
            said = one(x, t)
            return Prediction(x, said.levels, "x0", said.x0, Output(said.x0, extra={"variance": torch.full_like(x, place)}))

        return denoise

    x, t, s = torch.zeros(3, 1, dtype=DOUBLE), torch.tensor(0.8), torch.tensor(0.3)
    source = NoiseSource.of(0, range(3))

    def end(variance: str, place: float = 0.0):
        solver = DDPM(variance)
        return solver.step(learned(place), made, x, t, s, solver.start(x, source))[0]

    assert torch.allclose(end("range", -1.0), end("small")) and torch.allclose(end("range", 1.0), end("large"))
    solver = DDPM("range")
    last, _ = solver.step(learned(-1.2), made, x, t, torch.tensor(0.0), solver.start(x, source))
    assert torch.allclose(last, one(x, t).x0)
    with pytest.raises(OrnsteinError, match="Output.extra"):
        solver.step(one, made, x, t, s, solver.start(x, source))


@pytest.mark.parametrize("process", SPAN)
@pytest.mark.parametrize("spec", ODES)
def test_order_without_noise(spec, process):
    made = catalog.build("processes", process)
    mixture = Mixture.random(made, dims=4, components=3, std=0.8, seed=1)
    noise = torch.randn(8, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    x = made.corrupt(mixture.sample(8), noise, SPAN[process][0])
    exact = mixture.exact(x, *SPAN[process], steps=400)
    few, many = ((sample(mixture, x, solver_of(spec), rule=uneven(*SPAN[process], n)) - exact).norm().item() for n in (64, 128))
    measured = math.log2(few / many)
    assert abs(measured - solver_of(spec).order) < 0.3, f"measured {measured:.2f}"


@pytest.mark.parametrize("spec", EVERY)
def test_rows_at_times_of_their_own_in_every_variant(spec):
    x = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    times = torch.tensor([[1, 0.6, 0.5, 0.1, 0.0], [0.8, 0.7, 0.4, 0.3, 0.2], [0.95, 0.5, 0.3, 0.2, 0.05]], dtype=DOUBLE)
    for process in ("flow", "edm"):
        rows_are_alone(solver_of(spec), process, x, times, 1e-9)


@pytest.mark.parametrize("spec", EVERY)
def test_whole_way_in_every_variant(spec):
    ends_near_the_blobs(solver_of(spec))


@pytest.mark.parametrize("one, other, process", [
    ("tcd:gamma=0", "ddim", "vp"), ("tcd:gamma=1", "lcm", "flow"), ("euler_ancestral", "ddim:eta=1", "vp"),
    ("euler_ancestral:eta=0.6", "ddim:eta=0.6", "flow"), ("dpmpp_sde:kind='1S'", "ddpm", "vp"),
    ("dpmpp_sde:eta=0", "dpmpp2m", "flow"), ("sa_solver:predictor=3,corrector=0", "dpmpp_sde:kind='3M'", "vp"),
    ("sa_solver:predictor=2,corrector=0", "dpmpp_sde:slope=heun", "flow"), ("edm_heun", "heun", "edm")])  # fmt: skip
def test_one_and_the_same(one, other, process):
    mixture = Mixture.random(catalog.build("processes", process))
    a, b = (sample(mixture, (4, 16), solver_of(s), 12, dtype=DOUBLE, seed=4) for s in (one, other))
    assert torch.allclose(a, b, atol=1e-8)


def test_split():
    """What is kept and what is fresh make up the noise that there is; both rules agree at eta = 1."""
    made, x = catalog.build("processes", "vp"), torch.zeros((), dtype=DOUBLE)
    now, to = made.at(0.8, x), made.at(0.3, x)
    assert torch.isclose(ancestral(now, to, 1.0), decayed(now, to, 1.0))
    for kept in (ancestral(now, to, 0.5), decayed(now, to, 0.3), 0 * to.s):
        old, data, fresh = split(now, to, kept)
        assert torch.isclose((old * now.s) ** 2 + fresh**2, to.s**2)  # given x0 = 0
        assert torch.isclose(old * now.a + data, to.a)  # and without noise


@pytest.mark.parametrize("rate", [1.0, 1.7])
def test_adams_integrates_polynomials(rate):
    h, nodes = torch.tensor(0.8, dtype=DOUBLE), tuple(torch.tensor(v, dtype=DOUBLE) for v in (0.0, -0.5, -1.4))
    u = torch.linspace(0, 0.8, 20001, dtype=DOUBLE)
    for count in (1, 2, 3):
        found = adams(h, rate, nodes[:count])
        for power in range(count):
            exact = torch.trapezoid(rate * torch.exp(-rate * (h - u)) * u**power, u)
            assert abs(sum(w * n**power for w, n in zip(found, nodes)) - exact) < 1e-7


def test_weights_are_remembered_and_are_the_same_by_row():
    made, x = catalog.build("processes", "vp"), torch.zeros(2, 3, 4)
    calls = []

    def rule(levels, eta):
        calls.append(1)
        return split(*levels, decayed(*levels, eta))

    one = [weights(rule, made, x, (torch.tensor(0.8), 0.3), 0.5) for _ in range(3)][-1]
    rows = weights(rule, made, x, (torch.tensor([0.8, 0.8]), torch.tensor([0.3, 0.3])), 0.5)
    assert len(calls) == 2 and all(isinstance(w, float) for w in one)
    assert all(w.dtype == x.dtype and w.shape == (2, 1, 1) for w in rows)
    assert all(abs(w[0].item() - v) < 1e-6 for w, v in zip(rows, one))


def test_churn_is_of_the_run_and_never_above_the_prior():
    mixture = Mixture.random(catalog.build("processes", "edm"))
    x = torch.randn(4, 16, dtype=DOUBLE)
    with pytest.raises(OrnsteinError, match="churn without a number of steps"):
        solver = solver_of("edm_heun:churn=5")
        solver.step(mixture, mixture.process, x, torch.tensor(2.0), torch.tensor(1.0), solver.start(x, NoiseSource.of(0, range(4))))
    asked = []

    class Watched:
        process = mixture.process

        def __call__(self, x, t, cond=None, clock=None):
            asked.append(float(t))
            return mixture(x, t)

    by_loop = sample(Watched(), 80 * x, solver_of("edm_heun:churn=15"), 40, rule="karras", seed=3)
    given = sample(mixture, 80 * x, solver_of("edm_heun:churn=15,steps=40"), 40, rule="karras", seed=3)
    assert torch.equal(by_loop, given) and max(asked) <= 80.0 + 1e-9 and len(asked) == 79


def test_tau_as_a_function():
    mixture = Mixture.random(catalog.build("processes", "vp"))
    kind = type(solver_of("sa_solver"))
    stepped = kind(tau=lambda sigma: 1.0 * ((sigma >= 0.05) & (sigma <= 1)))
    a, b = (sample(mixture, (4, 16), s, 10, dtype=DOUBLE) for s in (stepped, solver_of("sa_solver:low=0.05,high=1")))
    assert torch.equal(a, b) and stepped.order == 0


@pytest.mark.parametrize("spec, match", [
    ("dpmpp_sde:kind='4M'", "unknown kind of DPM"), ("dpmpp_sde:slope=up", "unknown slope"), ("tcd:gamma=2", "gamma=2"),
    ("sa_solver:predictor=4", "predictor=4"), ("euler_ancestral:down=up", "unknown rule"),
    ("ddpm:variance=optimal", "left")])  # fmt: skip
def test_what_is_refused(spec, match):
    with pytest.raises(OrnsteinError, match=match):
        solver_of(spec)

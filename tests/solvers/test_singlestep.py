"""Singlestep solvers in all their settings: orders, calls, closings, and where the network is asked."""

import math
from functools import cache

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run
from ornstein.testbeds import Mixture

DOUBLE = torch.float64
CLASSIC = [f"{n}:method={m}" for n in ("rk4", "rhork") for m in ("midpoint", "heun", "ralston", "heun3", "kutta3", "rk4")]
EXPONENTIAL = [f"{n}:order={o},form={f}" for n in ("dpmsolver", "dpmpp2s") for o in (1, 2, 3)
               for f in ("paper", "taylor", "midpoint")]  # fmt: skip
SPECS = [*CLASSIC, *EXPONENTIAL]
PROCESSES = ("flow", "vp", "vp:schedule=linear", "edm")


def solver_of(spec: str):
    return catalog.build("solvers", spec)


class Spy:
    """A denoiser that remembers at which times it was asked."""

    def __init__(self, denoiser) -> None:
        self.denoiser, self.process, self.asked = denoiser, denoiser.process, []

    def __call__(self, x, t, cond=None, clock=None):
        self.asked.append(torch.as_tensor(t))
        return self.denoiser(x, t, cond, clock)


@cache
def smooth(process: str, early: float, late: float):
    mixture = Mixture.random(catalog.build("processes", process), dims=4, components=3, std=0.8, seed=1)
    noise = torch.randn(4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    x = mixture.process.corrupt(mixture.sample(4), noise, early)
    return mixture, x, mixture.exact(x, early, late, steps=1000)


def measured(spec: str, process: str, early: float, late: float, closing: bool = False) -> float:
    """The order found by halving the steps of a grid that alternates 1 : 2."""
    mixture, x, exact = smooth(process, early, late)
    error = []
    for n in (12, 24, 48):
        h = torch.tensor([1.0, 2.0], dtype=DOUBLE).repeat(n // 2)
        times = early - torch.cat([torch.zeros(1), h.cumsum(0)]) / h.sum() * (early - late)
        times = [*times.tolist()[:-1], late]
        end = sample(mixture, x, solver_of(spec), rule=times, dtype=DOUBLE)
        error.append((end - exact).square().mean().sqrt().item())
    coarse, fine = error[1:] if error[2] > 1e-10 else error[:2]
    return math.log2(coarse / fine)


@pytest.mark.parametrize("process, early, late", [("flow", 0.8, 0.35), ("vp", 0.85, 0.4)])
@pytest.mark.parametrize("spec", SPECS)
def test_order(spec, process, early, late):
    found = measured(spec, process, early, late)
    assert abs(found - solver_of(spec).order) < 0.35, f"measured {found:.2f}"


@pytest.mark.parametrize("spec", CLASSIC)
def test_the_step_to_the_data_keeps_the_order(spec):
    """One step of an order lower, of a size like the others: the whole is of the full order."""
    found = measured(spec, "flow", 0.7, 0.0)
    assert found > solver_of(spec).order - 0.35, f"measured {found:.2f}"


@pytest.mark.parametrize("process", ["flow", "edm"])
@pytest.mark.parametrize("spec", SPECS)
def test_rows_at_times_of_their_own(spec, process):
    """Pictures whose rows stand at other times, one from the prior, one done: each as if alone."""
    mixture = Mixture.random(catalog.build("processes", process), dims=4, components=3, std=0.8)
    solver, top = solver_of(spec), mixture.process.t_max
    x = torch.randn(3, 1, 2, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    t, s = torch.tensor([top, 0.5, 0.3], dtype=DOUBLE), torch.tensor([0.6, 0.0, 0.2], dtype=DOUBLE)
    spy = Spy(mixture)
    together, _ = solver.step(spy, mixture.process, x, t, s, solver.start(x, None))
    assert all((s <= v).all() and (v <= t).all() for v in spy.asked)  # a row of a shorter step asks again where it is
    for i in range(3):
        alone, _ = solver.step(mixture, mixture.process, x[i : i + 1], t[i], s[i], solver.start(x, None))
        assert torch.allclose(together[i], alone[0], atol=1e-10), i


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("spec", [*SPECS, "adaptive"])
def test_the_network_is_asked_from_t_max_to_t_min(spec, process):
    spy = Spy(Mixture.ring(catalog.build("processes", process)))
    for rule in ("uniform", "logsnr"):
        sample(spy, (3, 2), solver_of(spec), 6, rule=rule)
    asked = torch.cat([t.double().flatten() for t in spy.asked])
    assert asked.min() > spy.process.t_min * (1 - 1e-5) and asked.max() <= spy.process.t_max * (1 + 1e-6)


CALLS = {"midpoint": (2, 2), "heun": (2, 1), "ralston": (2, 2), "heun3": (3, 3), "kutta3": (3, 2), "rk4": (4, 3)}


@pytest.mark.parametrize("method", CALLS)
def test_calls_of_a_tableau(method):
    """Per step, and of the step to the data; rhoRK's step from pure noise costs one."""
    each, last = CALLS[method]
    for name, first in (("rk4", each), ("rhork", 1)):
        run = Run()
        sample(Mixture.ring(catalog.build("processes", "flow")), (2, 2), solver_of(f"{name}:method={method}"), 5, run=run)
        assert run.record.calls["evaluations"] == first + 3 * each + last


@pytest.mark.parametrize("process", PROCESSES)
def test_fast_makes_exactly_the_calls_that_it_was_given(process):
    built = catalog.build("processes", process)
    for nfe in range(1, 26):
        run, solver = Run(), solver_of(f"dpmsolver:nfe={nfe}")
        x = sample(Mixture.ring(built), (2, 2), solver, solver.steps(built), rule="logsnr", run=run)
        assert run.record.calls["evaluations"] == nfe and torch.isfinite(x).all()


@pytest.mark.parametrize("steps", [3, 5])
def test_fast_refuses_another_number_of_steps(steps):
    ring = Mixture.ring(catalog.build("processes", "vp"))
    with pytest.raises(OrnsteinError, match="steps=4"):
        sample(ring, (2, 2), solver_of("dpmsolver:nfe=9"), 1)
    solver = solver_of("dpmsolver:nfe=10")  # 3, 3, 3, 1
    with pytest.raises(OrnsteinError, match="Sample with steps=4"):
        sample(ring, (2, 2), solver, steps)


def test_fast_follows_the_publication():
    fast = __import__("ornstein.solvers.dpmsolver", fromlist=["fast"]).fast
    vp, flow = (catalog.build("processes", p) for p in ("vp", "flow"))
    assert fast(vp, 12) == (3, 3, 3, 2, 1) and fast(vp, 13) == (3, 3, 3, 3, 1) and fast(vp, 14) == (3, 3, 3, 2, 2, 1)
    assert fast(flow, 13) == (1, 3, 3, 3, 2, 1)


def test_order_3_as_published():
    """DPM-Solver-3 of the publication's algorithm 2, one step, written out."""
    mixture, x, _ = smooth("vp", 0.85, 0.4)
    process = mixture.process

    def at(r):
        low, high = (process.at(v, x).logsnr / 2 for v in (0.85, 0.4))
        t = process.time(2 * (low + r * (high - low)))
        return t, process.at(t, x), r * (high - low)

    (t, L, _), (t1, L1, h1), (t2, L2, h2), (_, end, h) = (at(r) for r in (0.0, 1 / 3, 2 / 3, 1.0))
    e = mixture(x, t).noise
    u1 = L1.a / L.a * x - L1.s * torch.expm1(h1) * e
    D1 = mixture(u1, t1).noise - e
    u2 = L2.a / L.a * x - L2.s * torch.expm1(h2) * e - L2.s * 2 * (torch.expm1(h2) / h2 - 1) * D1
    D2 = mixture(u2, t2).noise - e
    want = end.a / L.a * x - end.s * torch.expm1(h) * e - end.s * 1.5 * (torch.expm1(h) / h - 1) * D2
    assert torch.allclose(sample(mixture, x, solver_of("dpmsolver"), rule=[0.85, 0.4], dtype=DOUBLE), want, atol=1e-10)


@pytest.mark.parametrize("name", ["dpmsolver", "dpmpp2s"])
def test_order_1_is_ddim(name):
    mixture, x, _ = smooth("vp", 0.85, 0.4)
    ours, ddim = (sample(mixture, x, solver_of(s), 7, dtype=DOUBLE) for s in (f"{name}:order=1", "ddim"))
    assert torch.allclose(ours, ddim, atol=1e-12)


@pytest.mark.parametrize("spec", [s for s in SPECS if not s.startswith("rk4")])
def test_one_trajectory_under_every_process(spec):
    """In rho and in log-SNR the process does not matter: the same levels give the same x/a."""
    ladder, ends = torch.tensor([8.0, 3.0, 1.0, 0.4, 0.1], dtype=DOUBLE), []
    noise = torch.randn(4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    for name in ("edm", "vp", "vp:schedule=linear", "flow"):
        process = catalog.build("processes", name)
        mixture, times = Mixture.random(process, dims=4, components=3), process.time(-2 * ladder.log()).tolist()
        L = process.at(times[0], noise)
        x = sample(mixture, L.s * noise, solver_of(spec), rule=times, dtype=DOUBLE)
        ends.append(x / process.at(times[-1], x).a)
    assert all(torch.allclose(ends[0], e, atol=1e-9) for e in ends[1:])


def test_in_edm_time_is_rho():
    mixture, x, _ = smooth("edm", 0.85, 0.4)
    for method in CALLS:
        one, other = (sample(mixture, 80 * x, solver_of(f"{n}:method={method}"), 9, rule="karras", dtype=DOUBLE)
                      for n in ("rk4", "rhork"))  # fmt: skip
        assert torch.allclose(one, other, atol=1e-9), method


@pytest.mark.parametrize("spec, word", [("rk4:method=rk5", "rk4"), ("rhork:method=huen", "heun"),
                                        ("dpmsolver:order=4", "1, 2 or 3"),
                                        ("dpmpp2s:form=tayler", "taylor"), ("dpmsolver:nfe=-1", "negative"),
                                        ("adaptive:rtol=0,atol=0", "tolerances"), ("adaptive:calls=3", "at least 4")])  # fmt: skip
def test_wrong_settings(spec, word):
    with pytest.raises(OrnsteinError, match=word):
        solver_of(spec)


def test_times_are_remembered_and_nothing_else():
    """A plan depends on the two times alone: the same solver after other samples and grids answers the same."""
    mixture, x, _ = smooth("vp", 0.85, 0.4)
    for spec in ("rk4", "dpmsolver"):
        before = sample(mixture, x, solver_of(spec), 5, dtype=DOUBLE)
        sample(mixture, 2 * x.float(), solver_of(spec), 5)
        assert torch.equal(before, sample(mixture, x, solver_of(spec), 5, dtype=DOUBLE))
        assert torch.allclose(before.float(), sample(mixture, x.float(), solver_of(spec), 5), atol=1e-2)

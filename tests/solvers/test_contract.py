"""What every file of solvers/ promises: its order on an uneven grid, or its law, and memory in memory alone."""

import math
import threading
from dataclasses import replace
from functools import cache

import pytest
import torch
from journeys import ends_near_the_blobs, rows_are_alone
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Controller, State, sample
from ornstein.core.seam import gather
from ornstein.testbeds import Mixture

# solvers of tokens have tests of their own, against exact laws
NUMBERS = [e.name for e in catalog.entries("solvers") if not getattr(catalog.load("solvers", e.name), "discrete", False)]
SPECS = sorted({*NUMBERS, "ddim:eta=0.7", "ddim:eta=1", "ddpm:variance=large"})
SPAN = {"flow": (0.9, 0.3), "vp": (0.85, 0.25)}
DOUBLE = torch.float64


def solver_of(spec: str):
    return catalog.build("solvers", spec)


ORDERED = [s for s in SPECS if solver_of(s).order > 0]
RANDOM = [s for s in SPECS if solver_of(s).order == 0]


@cache
def smooth(process: str) -> tuple[Mixture, Tensor, Tensor]:
    """A mixture of broad blobs, points at the early time and where the exact ODE takes them by the late one."""
    mixture = Mixture.random(catalog.build("processes", process), dims=4, components=3, std=0.8, seed=1)
    early, late = SPAN[process]
    noise = torch.randn(8, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    x = mixture.process.corrupt(mixture.sample(8), noise, early)
    return mixture, x, mixture.exact(x, early, late, steps=1000)


def uneven(early: float, late: float, steps: int) -> list[float]:
    """Steps that alternate 1 : 2. On even ones a wrong ratio of steps cannot be seen."""
    h = torch.tensor([1.0, 2.0], dtype=DOUBLE).repeat(steps // 2)
    return (early - torch.cat([torch.zeros(1), h.cumsum(0)]) / h.sum() * (early - late)).tolist()


def trajectory(mixture: Mixture, spec: str, x: Tensor, times: list[float], **settings) -> Tensor:
    return sample(mixture, x, solver_of(spec), rule=times, dtype=DOUBLE, **settings)


@pytest.mark.parametrize("process", SPAN)
@pytest.mark.parametrize("spec", ORDERED)
def test_order_on_an_uneven_grid(spec, process):
    mixture, x, exact = smooth(process)
    error = {n: (trajectory(mixture, spec, x, uneven(*SPAN[process], n)) - exact).square().mean().sqrt().item()
             for n in (24, 48, 96)}  # fmt: skip
    coarse, fine = (48, 96) if error[96] > 1e-9 else (24, 48)
    measured = math.log2(error[coarse] / error[fine])
    if measured > solver_of(spec).order + 0.3:  # a start of low order shows on finer grids only
        late = [(trajectory(mixture, spec, x, uneven(*SPAN[process], n)) - exact).square().mean().sqrt() for n in (384, 768)]
        measured = math.log2(late[0] / late[1])
    assert abs(measured - solver_of(spec).order) < 0.3, f"measured {measured:.2f}"


@pytest.mark.parametrize("process", ["flow", "vp", "vp:schedule=linear", "edm"])
@pytest.mark.parametrize("spec", [s for s in RANDOM if getattr(solver_of(s), "weak_order", 1)])
def test_law_of_a_random_walk(spec, process):
    """From the prior, 500 steps end in the Gaussian that the data are, in mean and in spread."""
    one = Mixture(torch.full((1, 1), 0.75), torch.tensor([0.5]), catalog.build("processes", process))
    x = sample(one, (3000, 1), solver_of(spec), 500, rule="karras" if process == "edm" else "uniform", seed=5)
    assert abs(x.mean() - 0.75) < 0.03 and abs(x.std() - 0.5) < 0.025
    assert abs(((x - x.mean()) ** 4).mean() / x.var() ** 2 - 3) < 0.3  # and it is a Gaussian


@pytest.mark.parametrize("spec", RANDOM)
def test_a_random_walk_walks(spec):
    """Fresh noise: two seeds part from one start; and it is kept apart from step to step."""
    mixture, x, _ = smooth("vp")
    times = uneven(*SPAN["vp"], 8)
    assert not torch.allclose(trajectory(mixture, spec, x, times, seed=1), trajectory(mixture, spec, x, times, seed=2))
    drawn = []

    class Watched(NoiseSource):
        def draw(self, key, like):
            drawn.append(key)
            return super().draw(key, like)

    solver = solver_of(spec)
    memory = solver.start(x, Watched(NoiseSource.of(0, range(8)).keys))
    for t, s in zip(times[:-1], times[1:]):
        x, memory = solver.step(mixture, mixture.process, x, torch.tensor(t), torch.tensor(s), memory)
    assert len(set(drawn)) == len(drawn) >= 8


@pytest.mark.parametrize("spec", ORDERED)
def test_a_solver_with_an_order_is_deterministic(spec):
    mixture, x, _ = smooth("flow")
    times = uneven(*SPAN["flow"], 8)
    assert torch.equal(trajectory(mixture, spec, x, times, seed=1), trajectory(mixture, spec, x, times, seed=2))


@pytest.mark.parametrize("spec", SPECS)
def test_rows_do_not_depend_on_their_neighbours(spec):
    mixture, x, _ = smooth("vp")
    times = [*uneven(*SPAN["vp"], 6), 0.0]
    whole = trajectory(mixture, spec, x, times, seed=3)
    for i in (0, 5):
        assert torch.allclose(trajectory(mixture, spec, x[i : i + 1], times, seed=3, ids=[i])[0], whole[i], atol=1e-10)
    back = trajectory(mixture, spec, x.flip(0), times, seed=3, ids=list(range(8))[::-1])
    assert torch.allclose(back.flip(0), whole, atol=1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_eight_threads_share_one_solver(spec):
    mixture, x, _ = smooth("vp")
    solver, times, found = solver_of(spec), uneven(*SPAN["vp"], 10), {}
    before = dict(vars(solver))

    def work(i: int) -> None:
        for _ in range(3):
            found.setdefault(i, []).append(sample(mixture, x + i, solver, rule=times, dtype=DOUBLE, seed=i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(8):
        alone = trajectory(mixture, spec, x + i, times, seed=i)
        assert len(found[i]) == 3 and all(torch.equal(got, alone) for got in found[i])
    assert vars(solver) == before


@pytest.mark.parametrize("spec", SPECS)
def test_two_runs_step_by_step_in_turn(spec):
    """One solver object, two trajectories taken in turn: what it knows of one must not reach the other."""
    mixture, x, _ = smooth("flow")
    solver, times = solver_of(spec), torch.tensor(uneven(*SPAN["flow"], 8), dtype=DOUBLE)
    starts, ends = [x, x.flip(0) * 1.5], []
    source = NoiseSource.of(0, range(8))
    states = [(s, solver.start(s, source)) for s in starts]
    for t, s in zip(times[:-1], times[1:]):
        states = [solver.step(mixture, mixture.process, y, t, s, memory) for y, memory in states]
    for y in starts:
        ends.append(trajectory(mixture, spec, y, times.tolist()))
    for (got, _), want in zip(states, ends):
        assert torch.allclose(got, want, atol=1e-12)


def states_of(mixture: Mixture, spec: str, x: Tensor, times: list[float]) -> tuple[Tensor, list[State]]:
    kept: list[State] = []
    end = trajectory(mixture, spec, x, times, seed=2, progress=lambda state, steps: kept.append(state))
    return end, kept


@pytest.mark.parametrize("spec", SPECS)
def test_memory_can_be_gathered_mid_run(spec):
    """Rows chosen half way go on as they would have, with the memory of the row that they are."""
    mixture, x, _ = smooth("vp")
    times, index = uneven(*SPAN["vp"], 8), torch.tensor([5, 5, 0, 3, 7])
    end, kept = states_of(mixture, spec, x, times)
    half = kept[3]
    chosen = replace(half, x=half.x[index], memory=gather(half.memory, index, 8), noise=half.noise.gather(index),
                     ids=tuple(half.ids[i] for i in index.tolist()))  # fmt: skip
    assert torch.allclose(trajectory(mixture, spec, x, times, start=chosen), end[index], atol=1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_stop_and_go_on(spec):
    """A state kept at any step leads to the same end, bit by bit, and going on does not spoil the state."""
    mixture, x, _ = smooth("flow")
    times = [*uneven(*SPAN["flow"], 6), 0.0]
    end, kept = states_of(mixture, spec, x, times)
    for state in (kept[0], kept[3], kept[3]):
        assert torch.equal(trajectory(mixture, spec, x, times, start=state), end)


@pytest.mark.parametrize("spec", SPECS)
def test_resampling_by_a_controller(spec):
    """State.take within the loop: copies of one row stay one under an ODE, and part under fresh noise."""
    mixture, x, _ = smooth("vp")
    times, index = uneven(*SPAN["vp"], 8), torch.tensor([5, 5, 0, 3, 7, 1, 2, 2])

    class Resample(Controller):
        def after(self, before, now):
            return now.take(index) if now.step == 4 else now

    got = trajectory(mixture, spec, x, times, seed=2, controllers=[Resample()])
    plain = trajectory(mixture, spec, x, times, seed=2)
    if solver_of(spec).order:
        assert torch.allclose(got, plain[index], atol=1e-10)
    else:
        assert (got[0] - got[1]).abs().max() > 1e-3 and (got[0] - plain[5]).abs().max() > 1e-3


@pytest.mark.parametrize("process", ["flow", "edm"])
@pytest.mark.parametrize("spec", SPECS)
def test_rows_at_times_of_their_own(spec, process):
    """t and s of shape [B]: every row as if alone, also where one row is done (s = 0) and others are not."""
    times = [[0.9, 0.6, 0.5, 0.1, 0.0], [0.8, 0.7, 0.4, 0.3, 0.2], [0.95, 0.5, 0.3, 0.2, 0.05]]
    rows_are_alone(solver_of(spec), process, torch.randn(3, 4, dtype=DOUBLE), torch.tensor(times, dtype=DOUBLE), 1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_whole_way_from_the_prior(spec):
    ends_near_the_blobs(solver_of(spec))


@pytest.mark.parametrize("spec", SPECS)
def test_images_of_any_rank(spec):
    """The shape of a sample is its own affair: [B, C, H, W] as [B, D]."""
    mixture, x, _ = smooth("flow")
    times = [*uneven(*SPAN["flow"], 4), 0.0]
    square = trajectory(mixture, spec, x.reshape(8, 1, 2, 2), times)
    assert torch.allclose(square.reshape(8, 4), trajectory(mixture, spec, x, times), atol=1e-12)

"""The loop: resuming, controllers, refusals. What solvers do in it is in tests/solvers."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State, sample
from ornstein.core.process import Levels, Process, expand
from ornstein.core.seam import Run
from ornstein.testbeds import Mixture

DDIM, WALK, TWO = (catalog.build("solvers", s) for s in ("ddim", "ddim:eta=1", "dpmpp2m"))


def mixture() -> Mixture:
    return Mixture.random(catalog.build("processes", "vp"), dims=4)


def test_a_sample_is_its_seed_and_id():
    label = torch.arange(6)
    whole = sample(mixture(), (6, 4), WALK, 8, cond={"label": label}, seed=5)
    part = sample(mixture(), (2, 4), WALK, 8, cond={"label": label[[4, 1]]}, seed=5, ids=[4, 1])
    assert torch.allclose(part, whole[[4, 1]], atol=1e-6)
    seeds = sample(mixture(), (2, 4), WALK, 8, cond={"label": label[[4, 1]]}, seed=[5, 6], ids=[4, 1])
    assert torch.allclose(seeds[0], whole[4], atol=1e-6) and not torch.allclose(seeds[1], whole[1], atol=1e-2)


def test_a_given_start_keeps_its_type():
    x = torch.randn(3, 4, dtype=torch.float64)
    one = sample(mixture(), x, DDIM, 7)
    assert one.dtype == torch.float64
    assert torch.equal(one, sample(mixture(), x, DDIM, 7, dtype=torch.float64))  # and the grid is as fine
    assert sample(mixture(), x.float(), DDIM, 7, dtype=torch.float64).dtype == torch.float32


def test_record_counts_the_calls():
    run = Run()
    sample(mixture(), (2, 4), catalog.build("solvers", "heun"), 10, run=run)
    assert run.record.steps == 10 and run.record.calls["evaluations"] == 19 and run.record.seconds > 0


def test_progress_and_clock():
    seen, clocks = [], []

    class Watch(Controller):
        def on_prediction(self, clock, x, prediction):
            clocks.append((clock.step, clock.evaluation, clock.steps, clock.branch, clock.ids))
            return prediction

    sample(mixture(), (2, 4), catalog.build("solvers", "heun"), 3, ids=[7, 9], controllers=[Watch()],
           progress=lambda state, steps: seen.append((state.step, steps)))  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [c[:2] for c in clocks] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert {c[2:] for c in clocks} == {(3, "cond", (7, 9))}


def test_an_edit_of_the_prediction_reaches_the_solver():
    class Still(Controller):
        def on_prediction(self, clock, x, prediction):
            return prediction.like("x0", torch.full_like(x, 3.0))

    assert torch.allclose(sample(mixture(), (2, 4), DDIM, 5, controllers=[Still()]), torch.full((2, 4), 3.0), atol=1e-5)


class Rewind(Controller):
    """From step 4 back to step 2, `times` times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def after(self, before, now):
        facts = dict(now.facts)
        if now.step == 2:
            facts.setdefault("kept", now)
        if now.step == 4 and facts.get("back", 0) < self.times:
            return replace(facts["kept"], facts=facts | {"back": facts.get("back", 0) + 1})
        return replace(now, facts=facts)


def test_a_rewind_clears_memory():
    """After a rewind a multistep solver begins afresh: the same as starting there."""
    kept = []
    got = sample(mixture(), (3, 4), TWO, 8, controllers=[Rewind(1)])
    plain = sample(mixture(), (3, 4), TWO, 8, progress=lambda state, steps: kept.append(state))
    fresh = replace(kept[1], memory=TWO.start(kept[1].x, kept[1].noise))
    assert torch.equal(got, sample(mixture(), (3, 4), TWO, 8, start=fresh))
    assert not torch.allclose(got, plain, atol=1e-5)


def test_a_rewind_clears_what_plugins_remember():
    run = Run()
    run.memories[("site", "cond", (0, 1, 2))] = {"h": torch.zeros(3, 1)}
    sample(mixture(), (3, 4), DDIM, 8, controllers=[Rewind(1)], run=run)
    assert not run.memories


def test_a_rewind_draws_other_noise():
    """A second and a third try are tries: none repeats the one before, and each is the same in any batch."""
    ends = [sample(mixture(), (3, 4), WALK, 8, controllers=[Rewind(n)]) for n in (0, 1, 2)]
    assert min((a - b).abs().amax(1).min() for a, b in zip(ends, ends[1:] + ends[:1])) > 1e-3
    alone = sample(mixture(), (1, 4), WALK, 8, ids=[2], controllers=[Rewind(2)])
    assert torch.allclose(alone[0], ends[2][2], atol=1e-6)


def test_take_forks_noise_and_names_the_copies():
    states = []

    class Copy(Controller):
        def begin(self, state):
            return state.take(torch.tensor([0, 0, 1, 1]), generation=0)

        def after(self, before, now):
            states.append(now)
            return now

    start = torch.randn(2, 4)
    x = sample(mixture(), start, WALK, 6, cond={"label": torch.tensor([3, 5])}, controllers=[Copy()])
    assert x.shape == (4, 4) and not torch.allclose(x[0], x[1], atol=1e-3)
    assert states[0].ids == ((0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1))
    assert states[0].cond["label"].tolist() == [3, 3, 5, 5]
    assert torch.equal(states[0].memory["noise"].keys, states[0].noise.keys)
    same = sample(mixture(), start, DDIM, 6, cond={"label": torch.tensor([3, 5])}, controllers=[Copy()])
    assert torch.equal(same[0], same[1]) and not torch.allclose(same[1], same[2], atol=1e-2)


def test_two_controllers_that_both_choose_rows():
    """The second sees the batch as the first left it; memories of plugins follow both."""

    class Choose(Controller):
        def __init__(self, index, generation):
            self.index, self.generation = torch.tensor(index), generation

        def after(self, before, now):
            return now.take(self.index, self.generation) if now.step == 3 else now

    run, start = Run(), torch.randn(4, 4)

    class Remember(Controller):
        def after(self, before, now):
            if now.step == 2:
                run.memories[("site", "cond", now.ids, 0)] = torch.arange(4.0)[:, None]
            return now

    got = sample(mixture(), start, TWO, 6, controllers=[Remember(), Choose([3, 1, 0, 0], 0), Choose([0, 2, 1], 1)], run=run)
    assert torch.allclose(got, sample(mixture(), start, TWO, 6)[[3, 0, 1]], atol=1e-5)
    (kept,) = run.memories.values()
    assert kept.flatten().tolist() == [3, 0, 1]


def test_end_may_pick_the_winners():
    class Best(Controller):
        def end(self, state):
            return state.take(torch.tensor([2]))

    plain = sample(mixture(), (4, 4), DDIM, 5)
    assert torch.equal(sample(mixture(), (4, 4), DDIM, 5, controllers=[Best()]), plain[2:3])


def test_going_on_asks_no_controller_to_begin_again():
    begun, kept = [], []

    class Count(Controller):
        def begin(self, state):
            begun.append(state.step)
            return state

    end = sample(mixture(), (2, 4), TWO, 6, controllers=[Count()], progress=lambda s, n: kept.append(s))
    assert torch.equal(sample(mixture(), (2, 4), TWO, 6, controllers=[Count()], start=kept[3]), end)
    assert begun == [0]


@pytest.mark.parametrize("settings, words", [
    ({"steps": 0}, r"steps=0 is not a positive whole number. Ask for at least 1 step."),
    ({"steps": -4}, r"steps=-4 is not a positive whole number"),
    ({"ids": [1]}, r"1 sample ids for a batch of 2. Give one id per sample."),
    ({"ids": ["a", "b"]}, r"sample ids \('a', 'b'\) are not whole numbers"),
    ({"seed": [1, 2, 3]}, r"3 seeds for 2 samples"),
    ({"cond": {"label": torch.zeros(3)}}, r"condition 'label' has 3 rows for a batch of 2. Give one row per sample."),
    ({"cond": {"text": torch.tensor([[0.0], [float("nan")]])}}, r"condition 'text' holds values that are not finite"),
    ({"cond": {"text": torch.tensor([[0.0], [float("inf")]])}}, r"condition 'text' holds values that are not finite"),
    ({"rule": "unifrom"}, r"unknown method in grids/ 'unifrom'. Did you mean 'uniform'\?"),
    ({"rule": [0.1, 0.9]}, r"the given times do not decrease"),
])  # fmt: skip
def test_refusals(settings, words):
    with pytest.raises(OrnsteinError, match=words):
        sample(mixture(), (2, 4), DDIM, **({"steps": 5} | settings))


def test_it_keeps_no_gradients_and_touches_no_random_state():
    state = torch.random.get_rng_state()
    x = sample(mixture(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(), WALK, 3)
    assert not x.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)


def test_copies_of_a_row_get_the_same_noise_whatever_their_neighbours() -> None:
    source, like = NoiseSource.of(3, [5, 6, 7]), torch.empty(4, 8)
    together = source.fork(torch.tensor([0, 2, 2, 1]), 1).draw(0, like)
    alone = source.fork(torch.tensor([2, 2]), 1).draw(0, like[:2])
    assert torch.equal(together[1:3], alone)
    assert not torch.allclose(alone[0], alone[1])


def test_what_controllers_remember_is_in_the_record() -> None:
    class Says(Controller):
        def end(self, state: State) -> State:
            return replace(state, facts={"said": 7})

    run = Run()
    sample(mixture(), (1, 4), WALK, 2, controllers=[Says()], run=run)
    assert run.record.facts["said"] == 7


def test_a_run_used_twice_starts_without_the_memories_of_the_first() -> None:
    run, marks = Run(), []

    class Marks(Controller):
        def on_prediction(self, clock, x, prediction):
            marks.append(run.memories.get((0, "cond", clock.ids)))
            run.memories[(0, "cond", clock.ids)] = "old"
            return prediction

    for _ in range(2):
        sample(mixture(), (2, 4), WALK, 2, controllers=[Marks()], run=run)
    assert marks == [None, "old", None, "old"]


def test_particles_part_wherever_a_solver_keeps_its_noise():
    class Nested:
        order = 0

        def start(self, x, noise):
            return ({"source": noise}, 0)

        def step(self, denoise, process, x, t, s, memory):
            inner, k = memory
            return x + inner["source"].draw(k, x), (inner, k + 1)

    class Copy(Controller):
        def after(self, before, now):
            return now.take(torch.tensor([0, 0])) if now.step == 1 else now

    x = sample(mixture(), (2, 4), Nested(), 3, controllers=[Copy()])
    assert (x[0] - x[1]).abs().max() > 1e-2


class Flip:
    """A discrete process in the loop: bits that are hidden, written as 2, with probability t."""

    t_min, t_max = 1e-3, 1.0

    def at(self, t, like):
        t = expand(t, like)
        return Levels(t, 1 - t, t, -torch.ones_like(t), torch.ones_like(t))

    def prior(self, noise):
        return torch.full(noise.shape, 2)


class Reveal:
    order = 0

    def start(self, x, noise):
        return {"noise": noise, "k": 0}

    def step(self, denoise, process, x, t, s, memory):
        said, u = denoise(x, t), memory["noise"].uniform(memory["k"], x.shape[1:])
        guess = said.logits.argmax(-1)
        known = (x != 2) | (u > float(s) / float(t))
        return torch.where(known & (x == 2), guess, x), memory | {"k": memory["k"] + 1}


def test_a_discrete_process_goes_through_the_same_loop():
    def network(x, t, cond):
        assert x.dtype == torch.long and t.shape == (len(x),)
        return F.one_hot(cond["bits"], 2).float() * 5

    bits = torch.randint(2, (3, 6), generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(network, Flip(), "logits")
    seen = []
    x = sample(denoiser, (3, 6), Reveal(), 4, cond={"bits": bits}, progress=lambda state, n: seen.append(state.x))
    assert torch.equal(x, bits) and (seen[0] == 2).any() and (seen[0] != 2).any()
    alone = sample(denoiser, (1, 6), Reveal(), rule=[1.0, 0.5, 0.2], cond={"bits": bits[1:2]}, ids=[1])
    assert torch.equal(alone[0], sample(denoiser, (3, 6), Reveal(), rule=[1.0, 0.5, 0.2], cond={"bits": bits})[1])
    said = denoiser(x, 0.5, {"bits": bits})
    with pytest.raises(OrnsteinError, match="the network says logits, from which x0 does not follow"):
        _ = said.x0


def test_any_solver_runs_on_a_process_with_an_end_point():
    """x = (1 - t) x0 + t y + s noise: the network sees x itself; loop and solver carry x - t y."""

    @dataclass(frozen=True)
    class ToImage(Process):
        def coefficients(self, t):
            one = torch.ones_like(t)
            return 1 - t, 0.5 * t, -one, 0.5 * one, t, one

        def time(self, logsnr):
            return 1 / (1 + 0.5 * (logsnr / 2).exp())

    y, noise = torch.randn(2, 5, 4, dtype=torch.float64)
    process, target = ToImage(), y.flip(1)
    seen = []

    def network(x, t, cond):  # the velocity of the path to the target, told in x
        assert set(cond) == {"label"}
        seen.append((x, t))
        L = process.at(t, x)
        n = (x - L.a * target - L.b * y) / L.s
        return L.da * target + L.ds * n + L.db * y

    denoiser = Denoiser(network, process, "velocity", "t", null=lambda cond, n: {"label": cond["label"] * 0})
    cond = {"label": torch.ones(5), "endpoint": y}
    assert torch.equal(denoiser.unconditional(cond, 5)["endpoint"], y)
    for solver in ("euler", "ddim", "dpmpp2m", "heun"):
        seen.clear()
        end = sample(denoiser, process.prior(noise), catalog.build("solvers", solver), 6, cond=cond)
        assert torch.allclose(end, target, atol=1e-9), solver
        assert torch.allclose(seen[0][0], 0.5 * noise + y)  # a(1) = 0: noise about the end point


def test_the_clock_knows_the_grid():
    seen = []

    class Sees(Controller):
        def on_prediction(self, clock, x, prediction):
            seen.append(clock)
            return prediction

    bed = Mixture.random(catalog.build("processes", "flow"), dims=2)
    sample(bed, (2, 2), catalog.build("solvers", "ddim"), 3, controllers=[Sees()])
    assert [len(c.times) for c in seen] == [4, 4, 4] and [float(c.t) for c in seen] == seen[0].times[:3].tolist()

"""Sampling of tokens against exact laws."""

from functools import cache

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource, pick_token
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.solvers.unmask import Unmask
from ornstein.testbeds import Mixture, Tokens

SPECS = ["unmask", "unmask:choose=confidence", "unmask:choose=confidence,spread=1.5"]
every = pytest.mark.parametrize("spec", SPECS)


@cache
def bed(schedule: str = "linear", length: int = 4, flip: float = 0.0) -> Tokens:
    source = torch.Generator().manual_seed(3)
    data = torch.cat([torch.randint(3, (5, length), generator=source), torch.zeros(1, length, dtype=torch.long)])
    process = catalog.build("processes", f"masked:tokens=3,schedule={schedule}")
    return Tokens(data, process, torch.arange(1.0, 7.0), torch.tensor([0, 0, 0, 1, 1, 1]), flip)


def draw(spec: str, n: int, steps: int, tokens: Tokens | None = None, **settings) -> torch.Tensor:
    return sample(tokens or bed(), (n, 4), catalog.build("solvers", spec), steps, **settings)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "loglinear"])
def test_the_law_of_the_data_by_chi_square(schedule):
    """One token at a time, the exact denoiser's samples have the data's law; 150 steps seldom show two at once."""
    tokens, n = bed(schedule), 1500
    x = draw("unmask", n, 150, tokens)
    found = torch.bincount(tokens.which(x), minlength=len(tokens.data) + 1)
    assert found[-1] < 0.06 * n
    expected = found[:-1].sum() * tokens.law
    assert ((found[:-1] - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees of freedom, one in a thousand


def test_each_step_has_the_law_of_the_process_at_its_time():
    """Half way, the share hidden is that of the levels, and what is seen is as in corrupted data."""
    tokens, kept = bed("cosine"), []
    sample(tokens, (2000, 4), Unmask(), 100, progress=lambda state, n: kept.append(state.x) if state.step == 50 else None)
    hidden = (kept[0] == tokens.process.mask).double().mean().item()
    assert hidden == pytest.approx(float(tokens.process.at(0.5, kept[0]).s), abs=0.025)
    noise = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    true = tokens.process.corrupt(tokens.sample(2000), noise, 0.5)
    places = torch.tensor([64, 16, 4, 1])
    found, known = (torch.bincount((x * places).sum(1), minlength=256).double() / 2000 for x in (kept[0], true))
    assert (found - known).abs().sum() / 2 < 0.16  # fresh data from fresh data: 0.1


@every
def test_one_step_is_independent_marginals(spec):
    tokens = bed()
    x = draw(spec, 6000, 1)
    for j in range(4):
        true = torch.stack([tokens.law[tokens.data[:, j] == k].sum() for k in range(3)])
        found = torch.bincount(x[:, j], minlength=3) / len(x)
        assert (found - true).abs().max() < 0.025
    both = (x[:, :, None] == 0) & (x[:, None, :] == 0)
    alone = (x == 0).double().mean(0)
    assert (both.double().mean(0) - alone[:, None] * alone).fill_diagonal_(0).abs().max() < 0.025


def test_a_condition_is_followed():
    x = draw("unmask", 200, 200, cond={"label": torch.tensor([0, 1]).repeat(100)})
    kind = bed().which(x)
    label = torch.where(kind < 6, bed().labels[kind.clamp_max(5)], -1)
    assert ((label == torch.tensor([0, 1]).repeat(100)) | (label == -1)).all() and (label == -1).double().mean() < 0.1


@every
def test_a_row_does_not_depend_on_its_neighbours(spec):
    tokens = bed(flip=0.1)
    whole = draw(spec, 8, 5, tokens, seed=4)
    for i in (0, 6):
        assert torch.equal(draw(spec, 1, 5, tokens, seed=4, ids=[i])[0], whole[i])
    assert not torch.equal(whole, draw(spec, 8, 5, tokens, seed=5))
    solver, process, source = catalog.build("solvers", spec), tokens.process, NoiseSource.of(0, range(3))
    times = torch.tensor([[1.0, 0.5, 0.0], [0.9, 0.8, 0.1], [0.7, 0.4, 0.2]], dtype=torch.float64)

    def go(x, times, source):
        memory = solver.start(x, source)
        for k in range(2):
            x, memory = solver.step(tokens, process, x, times[..., k], times[..., k + 1], memory)
        return x

    start = torch.full((3, 4), process.mask)
    together = go(start, times, source)
    assert (together[0] != process.mask).all()
    for i in range(3):
        assert torch.equal(go(start[:1], times[i], source.gather(torch.tensor([i])))[0], together[i])


@every
def test_what_is_seen_stays_and_the_end_is_whole(spec):
    start, seen = torch.full((50, 4), 3), []
    start[:, 1] = 2
    x = sample(bed(flip=0.5), start, catalog.build("solvers", spec), 7, progress=lambda state, n: seen.append(state.x))
    assert (x[:, 1] == 2).all() and (x < 3).all() and x.dtype == torch.long
    for before, after in zip(seen[:-1], seen[1:]):
        assert torch.equal(after[before != 3], before[before != 3])
    square = sample(bed(), start, catalog.build("solvers", spec), 7, seed=1)
    wide = Tokens(bed().data.reshape(6, 2, 2), bed().process, bed().weights)
    again = sample(wide, start.reshape(50, 2, 2), catalog.build("solvers", spec), 7, seed=1)
    assert torch.equal(again.reshape(50, 4), square)


def test_confidence_shows_the_surest_and_as_many_as_the_schedule_says():
    def network(x, t, cond=None, clock=None):
        sure = torch.tensor([0.0, 3.0, 1.0, 2.0])
        return bed()(x, t).like("logits", torch.stack([sure, -sure, 0 * sure - 9], -1).expand(len(x), 4, 3))

    network.process, seen = bed().process, []
    sample(_Named(network), (3, 4), Unmask("confidence"), 4, progress=lambda state, n: seen.append(state.x == 3))
    assert [int(s[0].sum()) for s in seen] == [3, 2, 1, 0]
    assert [s[0].nonzero()[:, 0].tolist() for s in seen[1:]] == [[0, 2], [0], []]
    loud = []
    sample(_Named(network), (64, 4), Unmask("confidence", 20.0), 4, progress=lambda state, n: loud.append(state.x == 3))
    assert len({tuple(row.tolist()) for row in loud[0]}) > 1


def test_the_noise_of_confidence_is_gumbel_and_falls_with_the_hidden_share():
    """Of three places whose tokens have the chances 1, 1/2 and 1/3 one is shown: i with chance ~ p_i^(1 / (spread left))."""
    ways = torch.tensor([[0.0, -99, -99], [0.0, 0, -99], [0.0, 0, 0]])

    def network(x, t, cond=None, clock=None):
        return tokens(x, t).like("logits", ways.expand(len(x), 3, 3))

    tokens = bed(length=3)
    network.process, solver = tokens.process, Unmask("confidence", 1.5)
    for t, power in ((1.0, 1), (0.5, 2)):
        x, source = torch.full((6000, 3), 3), NoiseSource.of(0, range(6000))
        x, _ = solver.step(network, tokens.process, x, torch.tensor(t), torch.tensor(t * 2 / 3), solver.start(x, source))
        odds = torch.tensor([1, 1 / 2, 1 / 3]).double() ** power
        assert ((x != 3).sum(1) == 1).all()
        assert ((x != 3).double().mean(0) - odds / odds.sum()).abs().max() < 0.025


class _Named:
    def __init__(self, ask):
        self.ask, self.process = ask, ask.process

    def __call__(self, *given):
        return self.ask(*given)


def test_copies_part():
    class Copy(Controller):
        def after(self, before, now):
            return now.take(torch.zeros(50, dtype=torch.long)) if now.step == 1 else now

    x = sample(bed(flip=0.9), (50, 4), Unmask(), 3, controllers=[Copy()])
    assert len(x.unique(dim=0)) > 10


def test_a_token_is_picked_by_its_chance():
    chances = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    u = torch.tensor([1e-12, 0.2499, 0.2501, 0.9999])
    assert pick_token(chances.expand(4, 5), u).tolist() == [1, 1, 3, 3]
    assert pick_token(4 * chances.expand(4, 5), u).tolist() == [1, 1, 3, 3]


def test_numbers_and_other_answers_are_refused_in_words():
    flow = catalog.build("processes", "flow")
    with pytest.raises(OrnsteinError, match="use a discrete process"):
        sample(Mixture.ring(flow), (2, 2), Unmask(), 2)
    with pytest.raises(OrnsteinError, match="from which x0 does not follow"):
        draw("ddpm", 2, 2)
    with pytest.raises(OrnsteinError, match="Did you mean 'confidence'"):
        Unmask("confident")
    with pytest.raises(OrnsteinError, match="It is for 'confidence'"):
        Unmask(spread=1.0)

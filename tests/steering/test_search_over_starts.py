"""Searches over the start: zero-order, over paths, a learned policy, one start for all inputs."""

from dataclasses import replace

import pytest
import torch

from ornstein.core.artefact import Artefact
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.steering.boundary import Boundary
from ornstein.steering.boundary import fit as fit_boundary
from ornstein.steering.layers.search import endings, matching, neighbour, noised, survivors
from ornstein.steering.noise_policy import NoisePolicy, Settings, improve, surrogate
from ornstein.steering.noise_policy import fit as fit_policy
from ornstein.steering.path_search import PathSearch
from ornstein.steering.teleport import Teleport
from ornstein.steering.teleport import fit as gaussian
from ornstein.steering.zero_order import ZeroOrder
from ornstein.testbeds import Mixture

BED = Mixture.random(Flow(), dims=4, components=4, std=0.4)
NORMAL = Mixture(torch.zeros(1, 8), torch.tensor(1.0), Flow())


def first(x, cond):
    return x[:, 0]


def ran(part, bed=BED, shape=(3, 4), solver=DPMpp2M(), steps=6, **kw):
    run = Run()
    x = sample(bed, shape, solver, steps, controllers=[part], run=run, **kw)
    return x, run.record


class Seen(Controller):
    """Keeps the starts and the ends of all particles."""

    def __init__(self):
        self.starts, self.ends, self.said = [], [], []

    def begin(self, state):
        self.starts.append(state.x)
        return state

    def after(self, before, now):
        self.said.append(now.said.x0)
        (self.starts if now.step == 0 else self.ends).append(now.x)
        return now


@pytest.mark.parametrize("solver", [DPMpp2M(), DDIM(eta=1.0)], ids=["ode", "walk"])
def test_the_zero_order_winner_is_the_best_of_all_rounds(solver):
    cond = {"label": torch.tensor([0, 1, 2])}
    x, record = ran(ZeroOrder(first, 4, 5), solver=solver, cond=cond)
    found = record.facts["zero_order"]
    assert found["rewards"].shape == (3, 20) and torch.equal(found["rewards"].max(1).values, x[:, 0].double())
    assert torch.equal(found["chosen"], found["rewards"].argmax(1)) and record.calls["evaluations"] == 5 * 6
    assert torch.allclose(found["rewards"][:, 0], sample(BED, (3, 4), solver, 6, cond=cond)[:, 0].double(), atol=1e-6)


def test_the_zero_order_start_gives_its_winner_again_and_more_rounds_only_add():
    x, record = ran(ZeroOrder(first, 4, 6))
    found = record.facts["zero_order"]
    assert torch.allclose(sample(BED, found["start"], DPMpp2M(), 6), x, atol=1e-5)
    fewer = ran(ZeroOrder(first, 4, 3))[1].facts["zero_order"]["rewards"]
    assert torch.allclose(fewer, found["rewards"][:, :12], atol=1e-6) and bool((found["rewards"][:, 12:].max(1)[0] > -9).all())


@pytest.mark.parametrize("process", [Flow(), EDM()], ids=["flow", "edm"])
def test_neighbours_have_the_law_of_the_prior_and_the_similarity_asked_for(process):
    bed, inner, watch = Mixture.random(process, 4), Seen(), Seen()
    sample(bed, (8, 4), DDIM(), 2, controllers=[inner, ZeroOrder(lambda x, c: -x.abs().sum(1), 200, 2, 0.5), watch])
    scale = process.prior(torch.ones(1)).item()
    one = (watch.starts[0] / scale).reshape(8, 200, 4)
    pivot, others = one[:, :1], one[:, 1:]
    assert ((others - 0.5 * pivot).std() - 0.75**0.5).abs() < 0.02 and (others - 0.5 * pivot).mean().abs() < 0.02
    ends = inner.ends[1].reshape(8, 200, 4)  # of the first round
    best = one[torch.arange(8), (-ends.abs().sum(2)).argmax(1)][:, None]
    two = (watch.starts[1] / scale).reshape(8, 200, 4)
    assert ((two - 0.5 * best).std() - 0.75**0.5).abs() < 0.02 and (two - 0.5 * best).mean().abs() < 0.02
    assert (others * two[:, 1:]).mean(1).sub(others.mean(1) * two[:, 1:].mean(1)).abs().max() < 0.25  # noise of its own


def test_a_neighbour_of_similarity_0_is_the_other():
    x, z = torch.randn(2, 5, 3)
    assert torch.equal(neighbour(x, z, 0.0), z)


def test_searches_refuse_what_they_cannot_do():
    for wrong in (dict(rounds=0), dict(similarity=1.0)):
        with pytest.raises(OrnsteinError, match="no search"):
            ZeroOrder(first, 4, **wrong)
    for wrong in (dict(keep=0), dict(forward=0.4, backward=0.4), dict(forward=0.0), dict(first=1.5)):
        with pytest.raises(OrnsteinError, match="shares of the steps"):
            PathSearch(first, 4, **wrong)
    jump = Teleport(gaussian(BED.sample(200)), 2)
    with pytest.raises(OrnsteinError, match="before teleporting"):
        sample(BED, (2, 4), DDIM(), 6, controllers=[jump, ZeroOrder(first, 4)])


@pytest.mark.parametrize("process", [Flow(), EDM()], ids=["flow", "edm"])
def test_noise_put_on_again_has_the_forward_law(process):
    n, (t, u) = 40_000, torch.tensor([0.3, 0.8], dtype=torch.float64)
    x0 = torch.full((n, 1), 2.0)
    g = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, n, 1, generator=g)
    low, high = process.at(t, x0), process.at(u, x0)
    x = noised(process, low.a * x0 + low.s * one, t, u, two)
    assert (x.mean() - high.a * 2).abs() < 0.02 * high.s + 1e-3 and (x.std() / high.s - 1).abs() < 0.02
    covariance = ((x - x.mean()) * one).mean()
    assert (covariance - high.a / low.a * low.s).abs() < 0.03 * high.s + 1e-3  # what is left of the first noise


def test_noise_put_on_again_up_to_the_prior_forgets_everything():
    z = torch.randn(4, 3)
    assert torch.allclose(noised(Flow(), torch.randn(4, 3), torch.tensor(0.5), torch.tensor(1.0), z), z)


def test_the_sampler_as_a_function_gives_each_start_its_own_condition():
    starts, cond = torch.randn(5, 4), {"label": torch.tensor([0, 1, 2, 3, 0])}
    whole = sample(BED, starts, DDIM(), 4, cond=cond)
    assert torch.allclose(endings(BED, starts, DDIM(), 4, cond, batch=2), whole, atol=1e-6)


def test_survivors_take_turns_within_their_sample():
    rewards = torch.tensor([[1.0, 5, 3, 2, 4], [9.0, 8, -torch.inf, 7, 6]])
    assert survivors(rewards, 2).tolist() == [1, 4, 1, 4, 1, 5, 6, 5, 6, 5]
    assert survivors(rewards, 1).tolist() == [1] * 5 + [5] * 5


def test_path_search_chooses_by_the_x0_estimates_and_ends_with_the_best():
    asked = []

    def judge(x, cond):
        asked.append((x, cond["label"]))
        return x[:, 0]

    watch, cond = Seen(), {"label": torch.tensor([0, 1, 2])}
    run = Run()
    part = PathSearch(judge, 6, keep=2)
    x = sample(BED, (3, 4), DDIM(), 10, cond=cond, controllers=[watch, part], run=run)
    found = run.record.facts["path_search"]
    # choices after 2, 4, 6 and 8 of 10 steps, each taking back 2
    assert found["repeated"] == 8 and run.record.calls["evaluations"] == 18 and len(found["rewards"]) == len(asked) == 5
    assert torch.equal(x[:, 0].double(), found["rewards"][-1].max(1).values)
    assert torch.equal(found["chosen"], found["rewards"][-1].argmax(1))
    assert all(torch.equal(label, cond["label"].repeat_interleave(6)) for _, label in asked)
    after = (2, 6, 10, 14)  # steps taken in all before each choice
    assert all(torch.equal(seen, watch.said[n - 1]) for n, (seen, _) in zip(after, asked))


def test_path_search_keeps_the_best_paths():
    """With little noise put on again, what comes of a choice lies where its survivors were."""

    def judge(x, cond):
        return -(x - BED.means[1].float()).square().sum(1)

    plain = sample(BED, (40, 4), DDIM(), 20)
    x, _ = ran(PathSearch(judge, 8, keep=1, first=0.3, forward=0.05, backward=0.7), shape=(40, 4), solver=DDIM(), steps=20)
    assert judge(x, None).mean() > judge(plain, None).mean() + 1


def test_at_most_half_of_the_paths_survive():
    one, two = (ran(PathSearch(first, 2, keep=k), shape=(5, 4))[0] for k in (1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(*(ran(PathSearch(first, 4, keep=k), shape=(5, 4))[0] for k in (1, 2)))


@pytest.mark.parametrize("solver", [DPMpp2M(), DDIM(eta=1.0)], ids=["ode", "walk"])
def test_paths_without_a_judge_keep_the_law_of_the_model(solver):
    x, _ = ran(PathSearch(lambda x, c: torch.zeros(len(x)), 2), NORMAL, (700, 8), solver, 40)
    own = sample(NORMAL, (700, 8), solver, 40, seed=1).std()  # of the walk a little below 1
    assert (x.std() / own - 1).abs() < 0.03 and x.mean().abs() < 0.04 and (x[:, 1:] * x[:, :-1]).mean().abs() < 0.05


def test_a_policy_comes_to_the_tilted_law():
    """With a linear reward of slope 1 and deviation 1, E[R] - beta KL is largest for N(1 / beta, 1)."""
    settings = Settings(iterations=30, batch=64, rate=0.03, pull=0.8)
    policy = fit_policy(NORMAL, (8,), DPMpp2M(), 8, first, settings=settings)
    mean, std = policy.arrays["mean"][0], policy.arrays["std"][0]
    assert abs(mean[0] - 1 / 0.8) < 0.25 and mean[1:].abs().max() < 0.35 and (std - 1).abs().max() < 0.3
    history = policy.settings["history"]
    assert len(history) == 30 and sum(history[-10:]) / 10 > 0.8 and abs(history[0]) < 0.3


def test_a_policy_narrows_where_that_pays_and_draws_from_what_it_learned():
    policy = fit_policy(NORMAL, (8,), DPMpp2M(), 4, lambda x, c: -x[:, 0].square(), settings=Settings(25, 32))
    std, history = policy.arrays["std"][0], policy.settings["history"]
    assert std[0] < 0.7 and abs(std[1:].mean() - 1) < 0.15 and sum(history[-5:]) > 0.6 * sum(history[:5])


def test_the_clipped_objective_by_hand():
    ratio, gain = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1]), torch.tensor([1.0, 1, -1, -1, 2])
    assert torch.allclose(surrogate(ratio, gain, 0.2), torch.tensor([1.2, 0.5, -1.5, -0.8, 2.2]))


def test_a_policy_hears_differences_of_the_reward_alone():
    action, reward = torch.randn(2, 6, 3), torch.randn(2, 6)
    means = []
    for told in (reward, 3 * reward + 50):
        mean, log_std = (torch.zeros(2, 3).requires_grad_() for _ in range(2))
        improve(mean, log_std, action, told, torch.optim.Adam([mean, log_std], 0.05), Settings())
        means.append(mean.detach())
    assert means[0].abs().max() > 0.05 and torch.allclose(*means, atol=1e-4)


def test_a_policy_is_trained_on_starts_of_the_prior():
    bed = Mixture(torch.zeros(1, 8), torch.tensor(1.0), EDM())
    policy = fit_policy(bed, (8,), DDIM(), 10, lambda x, c: x.square().sum(1), rule="karras", settings=Settings(1, 400))
    own = sample(bed, (400, 8), DDIM(), 10, rule="karras", seed=1).square().sum(1).mean()
    assert abs(policy.settings["history"][0] / own - 1) < 0.15


def test_policies_of_two_conditions_are_apart(tmp_path):
    pull = Settings(12, rate=0.1)
    both = {"label": torch.tensor([2, 0])}

    def reward(x, cond):
        return x[:, 0] * (cond["label"] - 1)  # up for 2, down for 0

    kw = dict(settings=pull, cond=both)
    bed = Mixture(BED.means, BED.stds, Flow(), labels=torch.tensor([0, 2, 0, 2]))
    policy = fit_policy(bed, (4,), DDIM(), 4, reward, **kw)
    alone = fit_policy(bed, (4,), DDIM(), 4, reward, settings=pull, cond={"label": both["label"][:1]})
    assert torch.allclose(policy.arrays["mean"][:1], alone.arrays["mean"], atol=1e-5)
    again = Artefact.load(policy.save(tmp_path / "policy"), "noise_policy")
    cond = {"label": torch.tensor([0] * 200 + [2] * 200)}
    plain = sample(bed, (400, 4), DDIM(), 4, cond=cond)
    x, record = ran(NoisePolicy(again), bed, (400, 4), DDIM(), 4, cond=cond)
    assert torch.equal(record.facts["noise_policy"]["which"], torch.tensor([1] * 200 + [0] * 200))
    gain = (reward(x, cond) - reward(plain, cond)).reshape(2, 200).mean(1)
    assert bool((gain > 0.3).all()), gain
    with pytest.raises(OrnsteinError, match="row 1 is none of the 2"):
        sample(bed, (2, 4), DDIM(), 4, cond={"label": torch.tensor([0, 1])}, controllers=[NoisePolicy(again)])


@pytest.mark.parametrize("process", [Flow(), EDM()], ids=["flow", "edm"])
def test_a_policy_moves_and_scales_the_prior(process):
    made = {"process": repr(process), "shape": "4"}
    bed, watch = Mixture.random(process, 4), Seen()
    neutral = Artefact("noise_policy", {"mean": torch.zeros(1, 4), "std": torch.ones(1, 4)}, {}, made)
    plain = sample(bed, (3, 4), DDIM(), 4)
    assert torch.equal(sample(bed, (3, 4), DDIM(), 4, controllers=[NoisePolicy(neutral)]), plain)
    moved = replace(neutral, arrays={"mean": torch.full((1, 4), 2.0), "std": torch.full((1, 4), 0.5)})
    sample(bed, (3, 4), DDIM(), 4, controllers=[NoisePolicy(moved), watch])
    unit = NoiseSource.of(0, range(3)).draw(-1, torch.empty(3, 4))
    assert torch.allclose(watch.starts[0], process.prior(2 + 0.5 * unit))
    with pytest.raises(OrnsteinError, match="shape '4'"):
        sample(Mixture.random(process, 5), (3, 5), DDIM(), 4, controllers=[NoisePolicy(moved)])


def test_conditions_are_matched_row_by_row():
    known = {"text": torch.randn(3, 2, 4), "label": torch.tensor([0, 0, 1])}
    assert matching({k: v[[2, 0, 1, 0]] for k, v in known.items()}, known).tolist() == [2, 0, 1, 0]
    with pytest.raises(OrnsteinError, match="no label"):
        matching({"text": known["text"]}, known)
    with pytest.raises(OrnsteinError, match="none of the 3"):
        matching({"text": known["text"][:1], "label": torch.tensor([1])}, known)


def test_policies_refuse_what_is_none():
    with pytest.raises(OrnsteinError, match="at least 2"):
        Settings(batch=1)
    with pytest.raises(OrnsteinError, match="made by fit"):
        NoisePolicy(Artefact("boundary", {}))
    with pytest.raises(OrnsteinError, match="made by fit"):
        Boundary(Artefact("noise_policy", {}))


@pytest.mark.parametrize("process", [Flow(), EDM()], ids=["flow", "edm"])
def test_the_boundary_is_the_start_that_serves_the_references_best(process):
    bed = Mixture.random(process, 4, labels := 3, 0.6)
    cond = {"label": torch.arange(labels)}
    found = fit_boundary(bed, bed.means.float(), DDIM(), 6, cond, candidates=30)
    starts = process.prior(NoiseSource.of(0, range(30)).draw(-1, torch.empty(30, 4)))
    by_hand = [(sample(bed, s.expand(labels, 4), DDIM(), 6, cond=cond) - bed.means).square().mean().item() for s in starts]
    assert torch.allclose(found.arrays["distances"].float(), torch.tensor(by_hand), atol=1e-5)
    x = sample(bed, (labels, 4), DDIM(), 6, cond=cond, controllers=[Boundary(found)])
    assert (x - bed.means).square().mean().item() == pytest.approx(min(by_hand), abs=1e-5)
    assert found.settings["chosen"] == min(range(30), key=by_hand.__getitem__)


def test_the_boundary_may_be_no_noise_and_refuses_other_runs():
    mean = BED.means.float()
    found = fit_boundary(BED, mean, DDIM(), 6, {"label": torch.arange(4)}, candidates=3, zero=True)
    assert found.settings["chosen"] == 2 and not found.arrays["noise"].any()  # at the components' means nothing beats 0
    x, _ = ran(Boundary(found), shape=(2, 4), solver=DDIM(), cond={"label": torch.tensor([1, 1])})
    assert torch.equal(x[0], x[1])
    with pytest.raises(OrnsteinError, match="for 6 steps, not for 7"):
        ran(Boundary(found), steps=7)
    with pytest.raises(OrnsteinError, match="deterministic"):
        fit_boundary(BED, mean, DDIM(eta=1.0), 6)
    with pytest.raises(OrnsteinError, match="at least one"):
        fit_boundary(BED, mean, DDIM(), 6, candidates=0)

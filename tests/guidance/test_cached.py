"""What the contract leaves unsaid of guidance with a kept difference: what is asked when, for whom, and what is kept."""

from __future__ import annotations

import copy

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, running
from ornstein.guidance.cached import CachedCFG
from ornstein.guidance.cfg import CFG
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}


def bed():
    return Mixture.random(Flow(), dims=6, components=4, std=0.4)


class Spy:
    def __init__(self, denoiser):
        self.denoiser, self.process, self.calls = denoiser, denoiser.process, []

    def __call__(self, x, t, cond=None, clock=None):
        self.calls.append((clock.step, clock.branch, clock.ids))
        return self.denoiser(x, t, cond, clock)

    def unconditional(self, cond, batch):
        return self.denoiser.unconditional(cond, batch)


def draw(rule, steps=10, ids=(0, 1, 2, 3), run=None, controllers=(), model=None):
    cond = {"label": LABELS["label"][list(ids)]}
    return sample(guide(model or bed(), rule), (len(ids), 6), DDIM(), steps, cond=cond, ids=ids, run=run,
                  controllers=controllers, dtype=torch.float64)  # fmt: skip


@pytest.mark.parametrize("settings", [{"every": 1, "begin": 1.0}, {"every": 5, "begin": 0.0}])
def test_asked_every_time_it_is_classifier_free_guidance_bit_for_bit(settings):
    assert torch.equal(draw(CachedCFG(2.5, **settings)), draw(CFG(2.5)))


def test_when_the_unconditional_answer_is_asked():
    def asked(**settings):
        spy, run = Spy(bed()), Run()
        draw(CachedCFG(2.0, **settings), model=spy, run=run)
        kept = run.record.facts["cached"]["cond"]
        steps = [k for k, branch, _ in spy.calls if branch == "null"]
        assert kept == {"samples": 40, "samples_kept": 4 * (10 - len(steps))}
        return steps

    assert asked(every=3, begin=1.0) == [0, 3, 6, 9]
    assert asked(every=5, begin=0.64) == [0, 1, 2, 3, 5]  # flow times 1, 0.9, 0.8, 0.7; then every fifth
    assert asked(every=100, begin=1.0) == [0]


def test_in_between_the_last_difference_stands_in():
    rule, denoiser, run = CachedCFG(3.0, 2, 1.0), bed(), Run()
    x, y = torch.randn(2, 4, 6, dtype=torch.float64)
    with running(run):
        guide(denoiser, rule)(x, 0.6, LABELS, Clock(ids=(0, 1, 2, 3)))
        said = guide(denoiser, rule)(y, 0.5, LABELS, Clock(1, ids=(0, 1, 2, 3)))
    kind, strong = said.kind, denoiser(y, 0.5, LABELS)
    before = denoiser(x, 0.6, None).get(kind) - denoiser(x, 0.6, LABELS).get(kind)
    assert torch.allclose(said.value, strong.get(kind) - 2.0 * before, atol=1e-12)


def test_outside_of_a_run_nothing_is_kept():
    spy = Spy(bed())
    for k in range(3):
        guide(spy, CachedCFG(2.0, 5, 1.0))(torch.randn(4, 6), 0.5, LABELS, Clock(k, ids=(0, 1, 2, 3)))
    assert [c[1] for c in spy.calls] == ["cond", "null"] * 3


def test_two_runs_and_a_second_one_start_afresh():
    rule = CachedCFG(2.0, 4, 1.0)
    one = draw(rule)
    run = Run()
    assert torch.equal(draw(rule, run=run), one) and torch.equal(draw(rule, run=run), one)
    few = draw(rule, ids=(2,), run=run)
    assert torch.allclose(few[0], one[2], atol=1e-12)


class Shuffle(Controller):
    order = torch.tensor([3, 1, 0, 2])

    def after(self, before, now):
        return now.take(self.order) if now.step == 6 else now


def test_the_difference_follows_resampling():
    rule = CachedCFG(2.0, 4, 1.0)
    assert torch.allclose(draw(rule, controllers=[Shuffle()]), draw(rule)[Shuffle.order], atol=1e-12)


def test_rows_at_different_times_decide_for_themselves():
    """Rows above `begin` are asked, the others keep theirs; each comes out as if alone."""
    rule, spy = CachedCFG(2.0, 5, 0.5), Spy(bed())
    times = torch.tensor([[0.9, 0.4, 0.6, 0.3], [0.8, 0.3, 0.45, 0.2], [0.4, 0.2, 0.3, 0.1]], dtype=torch.float64)
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    with running(Run()):
        both = [guide(spy, rule)(x[k], times[k], LABELS, Clock(k, ids=(5, 6, 7, 8))).x0 for k in range(3)]
    assert [c[2] for c in spy.calls if c[1] == "null"] == [(5, 6, 7, 8), (5,)]
    for i in range(4):
        cond = {"label": LABELS["label"][i : i + 1]}
        with running(Run()):
            for k in range(3):
                alone = guide(bed(), rule)(x[k, i : i + 1], times[k, i], cond, Clock(k, ids=(i,))).x0
        assert torch.allclose(both[2][i : i + 1], alone, atol=1e-12)


def test_raised_frequencies_add_up_to_the_whole():
    rule, plain = CachedCFG(2.0, boost=0.5, turn=0.5), CachedCFG(2.0)
    gap = torch.randn(2, 3, 10, 10)

    class At:
        def __init__(self, t):
            self.levels = type("L", (), {"flow_time": torch.tensor(t)})

    early, late = rule._raised(gap, At(0.9)), rule._raised(gap, At(0.1))
    assert torch.allclose(early + late, 2.5 * gap, atol=1e-5)
    flat = gap.mean((-2, -1), keepdim=True).expand_as(gap)
    assert torch.allclose(rule._raised(flat, At(0.9)), 1.5 * flat, atol=1e-5)
    assert torch.allclose(rule._raised(flat, At(0.1)), flat, atol=1e-5)
    assert plain.boost == 0


def test_it_is_the_guidance_cache_of_diffusers():
    """FasterCache without its attention half, and with its weights at 1, on one DiT."""
    hooks = pytest.importorskip("diffusers.hooks")
    from ornstein.bridges.layers import caches as peers

    job = peers.task(layers=3, width=32, size=8, batch=2, steps=12, scale=3.0)
    net, now = copy.deepcopy(job.net), {"t": 0.0}
    config = hooks.FasterCacheConfig(
        tensor_format="BCHW", current_timestep_callback=lambda: now["t"], unconditional_batch_skip_range=4,
        unconditional_batch_timestep_skip_range=(-1, 701), spatial_attention_timestep_skip_range=(2000, 2001),
        alpha_low_frequency=1.0, alpha_high_frequency=1.0, attention_weight_callback=lambda _: 0.5,
        _unconditional_conditional_input_kwargs_identifiers=["hidden_states", "timestep", "class_labels"])  # fmt: skip
    config.now = now
    hooks.apply_faster_cache(net, config)
    theirs = peers._walk(job, net, lambda: peers._theirs(net, config))

    def backbone(x, t, cond):
        return job.net(hidden_states=x, timestep=1000 * t, class_labels=cond["label"], return_dict=False)[0]

    denoiser = Denoiser(backbone, Flow(), null=lambda cond, n: {"label": torch.full((n,), 10)})
    times = [1 - k / 12 for k in range(13)]
    run, cond = Run(), {"label": job.labels}
    mine = sample(guide(denoiser, CachedCFG(3.0, 4, 0.701)), job.start, DDIM(), 12, cond=cond, rule=times, run=run)
    assert run.record.facts["cached"]["cond"]["samples_kept"] > 0
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-4
    plain = sample(guide(denoiser, CFG(3.0)), job.start, DDIM(), 12, cond=cond, rule=times)
    assert float((plain - theirs).norm() / theirs.norm()) > 1e-4


@pytest.mark.parametrize("act, words", [
    (lambda: CachedCFG(2.0, every=0), "at least 1"),
    (lambda: CachedCFG(2.0, begin=5.0), "flow times"),
    (lambda: guide(bed(), CachedCFG(2.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition"),
    (lambda: draw(CachedCFG(2.0, 5, 1.0, boost=0.2)), "Leave boost at 0"),
])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()

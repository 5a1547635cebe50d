"""EVODiff: the published coefficients against a plain loop, changes between steps, and settings."""

from dataclasses import replace

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


def dot(a, b):
    return (a * b).flatten(2).sum(2)[..., None, None]


def onto(a, b):
    return (dot(a, b) / dot(b, b)).clamp(-2, 2)


def published(ask, x, sigmas, low, high):
    """The released sampler on x0 + sigma noise, up to 20 steps, with a plain first-order step to 0."""
    m, x = [ask(x, sigmas[0])], x
    x = sigmas[1] / sigmas[0] * x + (1 - sigmas[1] / sigmas[0]) * m[0]
    m.append(ask(x, sigmas[1]))
    for k in range(2, len(sigmas)):
        s, now, before = (torch.tensor(v, dtype=DOUBLE) for v in (sigmas[k], sigmas[k - 1], sigmas[k - 2]))
        if s == 0:
            return m[-1]
        gain = s * (1 / s - 1 / now)
        r = (before / now).log() / (now / s).log()
        w = 0.5 * (1 - ((s + low) / (high + low)) ** 2)
        ground = ((s / now) / (now / before)).sqrt()
        r1 = (1 - w) * ground + w * onto(m[-1], m[-2])
        D1 = m[-1] - r1 * m[-2]
        first = s / now * x + gain * m[-1]
        ri = torch.sigmoid(0.25 * r1.abs()) * r
        probe = first + 0.5 * gain / ri * D1
        m.append(ask(probe, sigmas[k]))
        D2 = m[-1] - ((1 - w) * ground + w * onto(m[-1], m[-2])) * m[-2]
        eta = 0.5 * torch.sigmoid((0.5 * onto(r * D2 + D1 / r, r * D2 - D1 / r)).abs())
        B = -eta / r * D1 + r * (1 - eta) * D2
        zeta = torch.sigmoid((onto(probe - first - 0.5 * gain / ri * B, D1) / gain).abs() - 0.5)
        x = first + 0.5 * gain / zeta * B
    return x


def test_the_published_form():
    mixture = Mixture.random(catalog.build("processes", "edm"), dims=24)
    x = 80 * torch.randn(3, 2, 3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    sigmas = [80.0, 50.0, 28.0, 12.0, 5.0, 2.0, 0.7, 0.2, 0.0]
    want = published(lambda y, t: mixture(y, t).x0, x, sigmas, 0.002, 80.0)
    got = sample(mixture, x, catalog.build("solvers", "evodiff:faithful=True"), rule=sigmas)
    assert (got - want).abs().max() < 1e-9
    assert (got - sample(mixture, x, catalog.build("solvers", "evodiff"), rule=sigmas)).abs().max() > 1e-3


def test_channels_decide_for_themselves():
    """A channel of large numbers does not choose the share of a small one's; without channels the row decides."""
    mixture = Mixture.random(catalog.build("processes", "flow"), dims=8, std=0.8)
    x = torch.randn(2, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    solver, times = catalog.build("solvers", "evodiff"), torch.linspace(0.9, 0.2, 8).tolist()
    rows = sample(mixture, x, solver, rule=times)
    one, two = (sample(mixture, x.reshape(2, c, 8 // c), solver, rule=times).flatten(1) for c in (1, 2))
    assert (one - rows).abs().max() < 1e-10 < 1e-6 < (two - rows).abs().max()


def test_a_change_between_steps_is_kept():
    """What a controller adds to x after a step is not undone by the correction of that step."""
    mixture = Mixture.random(catalog.build("processes", "flow"), dims=4)
    x = torch.randn(2, 4, dtype=DOUBLE)

    class Push(Controller):
        def after(self, before, now):
            return replace(now, x=now.x + 0.5) if now.step == 5 else now

    times = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    ends = {}
    for solver in ("evodiff", "ddim"):
        part = catalog.build("solvers", solver)
        pushed, plain = (sample(mixture, x, part, rule=times, controllers=c) for c in ([Push()], []))
        ends[solver] = (pushed - plain).mean()
    assert abs(ends["evodiff"] / ends["ddim"] - 1) < 0.25


@pytest.mark.parametrize("spec", ["evodiff:eta=2", "evodiff:eta=-0.1"])
def test_settings(spec):
    with pytest.raises(OrnsteinError):
        catalog.build("solvers", spec)


def test_the_chosen_share_is_the_one_of_the_shortest_correction():
    x0 = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).cumsum(0).unbind(0)[::-1]
    x0 = tuple(v + 0.3 * x0[0] for v in x0)
    gain, ratio = 0.4, 0.7
    ahead, behind = x0[0] - x0[1], ratio * (x0[1] - x0[2])
    lengths = torch.stack([(e * behind + (1 - e) * ahead).norm(dim=1) for e in torch.linspace(0, 0.5, 501).tolist()])
    whole = catalog.build("solvers", "evodiff")._correction(x0, gain, ratio) + gain / 2 * behind
    assert torch.allclose(whole.norm(dim=1), gain / 2 * lengths.min(0)[0], rtol=1e-4)
    assert (lengths.argmin(0) > 5).all()

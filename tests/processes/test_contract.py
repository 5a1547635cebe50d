"""What every file of processes/ promises: falling SNR, conversions that close, right scores, an inverse of logSNR."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import KINDS, Prediction
from ornstein.core.process import Process
from ornstein.testbeds import Mixture


def gaussian() -> list[str]:
    """Every file whose part is a Gaussian process; other kinds (discrete ones) have contracts of their own."""
    names = [e.name for e in catalog.entries("processes")]
    return [n for n in names if issubclass(catalog.load("processes", n), Process)]


SPECS = sorted({*gaussian(), "vp:schedule=linear"})


@pytest.fixture(params=SPECS)
def process(request) -> Process:
    return catalog.build("processes", request.param)


def times(process: Process, n: int = 25) -> torch.Tensor:
    """Inner times, evenly spread in flow time: away from both ends, where a or s vanishes."""
    tau = torch.linspace(0.03, 0.97, n, dtype=torch.float64)
    t = process.time(2 * ((1 - tau) / tau).log())
    t = t[(t > process.t_min) & (t < process.t_max)]
    assert len(t) > n // 2
    return t


def test_snr_falls_with_time(process):
    L = process.at(times(process), torch.zeros(len(times(process)), 1, dtype=torch.float64))
    assert (L.logsnr.flatten().diff() < 0).all()
    assert (L.flow_time.flatten().diff() > 0).all() and (L.flow_time >= 0).all() and (L.flow_time <= 1).all()
    assert torch.allclose(L.logsnr, -2 * L.sigma.log())


def test_data_at_zero_and_prior_at_the_end(process):
    like = torch.zeros(1, dtype=torch.float64)
    start, end = process.at(0.0, like), process.at(process.t_max, like)
    assert abs(start.a - 1) < 1e-9 and abs(start.s) < 1e-9
    assert end.sigma > 20  # hardly any signal left
    noise = torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(process.prior(noise), end.s * noise)


def test_time_inverts_logsnr(process):
    t = times(process)
    assert torch.allclose(process.time(process.at(t, t).logsnr), t, rtol=1e-9)


def test_derivatives(process):
    t = times(process)
    step = 1e-6 * t
    ahead, behind, here = (process.at(v, t) for v in (t + step, t - step, t))
    for name in ("a", "s", "b"):
        slope = (torch.as_tensor(getattr(ahead, name)) - torch.as_tensor(getattr(behind, name))) / (2 * step)
        assert torch.allclose(slope, torch.as_tensor(getattr(here, "d" + name)).to(slope), rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("given", KINDS)
def test_conversions_close(process, given):
    """The truth about a sample, told in one kind, is told right in every other."""
    t = times(process)
    x0, noise = torch.randn(2, len(t), 3, dtype=torch.float64)
    L, x = process.at(t, x0), process.corrupt(x0, noise, t)
    truth = {"x0": x0, "noise": noise, "velocity": L.da * x0 + L.ds * noise, "v": L.a * noise - L.s * x0,
             "score": -noise / L.s}  # fmt: skip
    said = Prediction(x, L, given, truth[given])
    for kind in KINDS:
        back = Prediction(x, L, kind, said.get(kind)).get(given)
        assert torch.allclose(said.get(kind), truth[kind], rtol=1e-7, atol=1e-7), kind
        assert torch.allclose(back, truth[given], rtol=1e-7, atol=1e-7), kind


def test_score_of_a_gaussian(process):
    """For data N(m, d^2) the score at x is -(x - a m) / (a^2 d^2 + s^2), and the ODE keeps quantiles."""
    m, d = 0.75, 0.5
    one = Mixture(torch.full((1, 3), m, dtype=torch.float64), torch.tensor(d).double(), process)
    t = times(process)
    x = torch.randn(len(t), 3, dtype=torch.float64)
    L = process.at(t, x)
    total = L.a**2 * d**2 + L.s**2
    score = -(x - L.a * m) / total
    assert torch.allclose(one(x, t).score, score, rtol=1e-8, atol=1e-8)
    # dx/dt of the quantile path x = a m + sqrt(total) z is what every prediction must give as velocity
    z = (x - L.a * m) / total.sqrt()
    velocity = L.da * m + (L.a * L.da * d**2 + L.s * L.ds) / total.sqrt() * z
    assert torch.allclose(one(x, t).velocity, velocity, rtol=1e-8, atol=1e-8)


def test_shapes_of_time(process):
    """[], [B], [B, N] and full rank mean the same where they say the same; rows and tokens keep their own."""
    x0, noise = torch.randn(2, 5, 4, 3, 2, dtype=torch.float64)
    t = times(process, 40)[:20].reshape(5, 4)
    whole = process.corrupt(x0, noise, t)
    assert whole.shape == x0.shape
    for i in range(5):
        for j in range(4):
            alone = process.corrupt(x0[i : i + 1, j : j + 1], noise[i : i + 1, j : j + 1], t[i, j])
            assert torch.allclose(whole[i : i + 1, j : j + 1], alone)
    rows = process.corrupt(x0, noise, t[:, 0])
    assert torch.allclose(rows, process.corrupt(x0, noise, t[:, 0, None, None, None]))
    assert torch.allclose(rows[2:3], process.corrupt(x0[2:3], noise[2:3], t[2, 0]))
    square = torch.randn(4, 4, dtype=torch.float64)  # here a wrong axis would not raise
    assert torch.allclose(process.corrupt(square, square, t[0])[1], process.corrupt(square[1], square[1], t[0, 1]))


def test_float32_stays_near_float64(process):
    t = times(process)
    x0, noise = torch.randn(2, len(t), 3, dtype=torch.float64)
    single = process.corrupt(x0.float(), noise.float(), t.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), process.corrupt(x0, noise, t), rtol=1e-5, atol=1e-5)


# ---- processes of tokens


def discrete() -> list[str]:
    names = [e.name for e in catalog.entries("processes")]
    return [n for n in names if getattr(catalog.load("processes", n), "discrete", False)]


TOKENS = sorted({*(f"{n}:tokens=3" for n in discrete()), *(f"masked:tokens=3,schedule={s}" for s in ("cosine", "loglinear"))})
SOME = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
tokens = pytest.mark.parametrize("spec", TOKENS)


def unhidden(spec: str, n: int = 20000):
    """A process, n tokens and as many numbers that say when each goes."""
    source = torch.Generator().manual_seed(0)
    return (catalog.build("processes", spec), torch.randint(3, (n,), generator=source),
            torch.randn(n, generator=source, dtype=torch.float64))  # fmt: skip


def test_every_process_is_of_one_kind():
    assert sorted(discrete() + gaussian()) == sorted(e.name for e in catalog.entries("processes"))


@tokens
def test_levels_of_tokens(spec):
    """From all seen to (nearly) none; slopes; logSNR can be inverted; a scalar time and one of each row say the same."""
    process = catalog.build("processes", spec)
    start, end = process.at(0.0, SOME), process.at(process.t_max, SOME)
    assert abs(start.a - 1) < 1e-9 and abs(start.s) < 1e-9 and 0 <= end.a + 1e-12 < 2e-3
    L = process.at(SOME, SOME)
    assert (L.a.diff() < 0).all() and torch.allclose(L.a + L.s, torch.ones_like(L.a))
    assert torch.allclose(process.time(L.logsnr), SOME) and torch.allclose(L.flow_time, L.s)
    ahead, behind = process.at(SOME + 1e-6, SOME), process.at(SOME - 1e-6, SOME)
    for name in ("a", "s"):
        assert torch.allclose((getattr(ahead, name) - getattr(behind, name)) / 2e-6, getattr(L, "d" + name), rtol=1e-6)
    assert torch.allclose(process.at(0.4, SOME).s, process.at(torch.tensor([0.4]).double(), SOME).s)


@tokens
def test_law_of_corrupted_tokens(spec):
    """The share hidden is that of the levels, the rest is as it was; what is hidden stays so as t grows."""
    process, x0, noise = unhidden(spec)
    before = torch.zeros(len(x0), dtype=torch.bool)
    for t in (0.0, 0.2, 0.5, 0.9):
        x = process.corrupt(x0, noise, t)
        hidden = x == process.mask
        assert x.dtype == torch.long and torch.equal(x[~hidden], x0[~hidden]) and (hidden | ~before).all()
        assert abs(hidden.double().mean() - process.at(t, noise).s) < 4 * 0.5 / len(x0) ** 0.5
        before = hidden
    assert torch.equal(process.corrupt(x0, noise, 0.0), x0)
    assert (process.prior(noise) == process.mask).all() and process.prior(noise).dtype == torch.long


@tokens
def test_posterior_of_tokens_by_enumeration(spec):
    """q(x_s | x_t, x_0) q(x_t | x_0) = q(x_t | x_s) q(x_s | x_0) over all states, where a step hides with 1 - a_t / a_s."""
    process = catalog.build("processes", spec)
    for t, s in ((0.9, 0.4), (0.5, 0.0), (process.t_max, 0.7)):
        now, to = process.at(t, SOME), process.at(s, SOME)
        for x0 in range(3):
            clean, mask = torch.eye(4, dtype=torch.float64)[x0], torch.eye(4, dtype=torch.float64)[3]
            q_s, q_t = to.a * clean + to.s * mask, now.a * clean + now.s * mask
            hide = 1 - now.a / to.a
            step = (1 - hide) * torch.eye(4).double() + hide * mask  # [x_s, x_t]
            for x in (x0, 3):
                if q_t[x] < 1e-12:
                    continue
                said = process.posterior(torch.tensor([x]), torch.tensor([x0]), t, s)[0]
                assert torch.allclose(said * q_t[x], step[:, x] * q_s, atol=1e-9)
                told = process.posterior(torch.tensor([x]), clean[None, :3], t, s)[0]
                assert torch.allclose(told, said)
    mixed = torch.tensor([[0.2, 0.3, 0.5]]).double()
    each = torch.cat([process.posterior(torch.tensor([3]), torch.tensor([k]), 0.8, 0.3) for k in range(3)])
    assert torch.allclose(process.posterior(torch.tensor([3]), mixed, 0.8, 0.3), mixed @ each)


@tokens
def test_rate_is_the_limit_of_the_posterior(spec):
    process = catalog.build("processes", spec)
    x = torch.tensor([process.mask])
    shown = torch.cat([process.posterior(x, torch.zeros_like(x), t, t - 1e-7)[:, 0] for t in SOME.tolist()])
    assert torch.allclose(shown / 1e-7, process.rate(process.at(SOME, SOME)), rtol=1e-4)


@tokens
def test_times_of_tokens_of_any_shape(spec):
    """[], [B], [B, N] and full rank mean the same where they say the same; rows and places keep their own."""
    process, x0, noise = unhidden(spec, 5 * 4 * 6)
    x0, noise, t = x0.reshape(5, 4, 6), noise.reshape(5, 4, 6), torch.linspace(0.05, 0.95, 20).reshape(5, 4)
    whole = process.corrupt(x0, noise, t)
    later = process.posterior(whole, x0, t, t / 2)
    for i in range(5):
        for j in range(4):
            assert torch.equal(whole[i, j], process.corrupt(x0[i, j], noise[i, j], t[i, j]))
            assert torch.allclose(later[i, j], process.posterior(whole[i, j], x0[i, j], t[i, j], t[i, j] / 2), atol=1e-6)
    assert torch.equal(process.corrupt(x0, noise, t[:, 0]), process.corrupt(x0, noise, t[:, 0, None, None]))


def test_tokens_that_cannot_be_are_refused():
    with pytest.raises(OrnsteinError, match="Did you mean 'cosine'"):
        catalog.build("processes", "masked:schedule=cosin")
    with pytest.raises(OrnsteinError, match="2 or more"):
        catalog.build("processes", "masked:tokens=1")
    with pytest.raises(OrnsteinError, match="Give whole numbers"):
        catalog.build("processes", "masked").corrupt(torch.randn(3), torch.randn(3), 0.5)

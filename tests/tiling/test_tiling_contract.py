"""What every tiling keeps to, over all files of the room; and MultiDiffusion against hand-made averages."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.prediction import Prediction
from ornstein.guidance.cfg import CFG
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture
from ornstein.tiling.multidiffusion import MultiDiffusion

NAMES = [e.name for e in catalog.entries("tiling")]
LABELS = {"label": torch.tensor([0, 2, 1])}


class Local:
    """Knows windows of 4 x 4 alone; the answer depends on the place within the window, on time and on the condition."""

    process = Flow()

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, cond=None, clock=None):
        assert x.shape[-2:] == (4, 4)
        self.calls.append((tuple(x.shape), clock.ids, clock.branch))
        place = torch.arange(16, dtype=x.dtype).reshape(4, 4) / 16
        label = 0.0 if cond is None else cond["label"].reshape(-1, 1, 1, 1).to(x.dtype)
        L = self.process.at(t, x)
        return Prediction(x, L, "velocity", (x * place).cumsum(-1).tanh() + 0.1 * label + L.t)

    def unconditional(self, cond, batch):
        return {"label": torch.full((batch,), 5)}


def part(name, **settings):
    return catalog.build("tiling", {"name": name, "window": (4, 4), **settings})


@pytest.mark.parametrize("name", NAMES)
def test_one_window_is_the_plain_sampler(name):
    bed = Mixture.random(Flow(), dims=16, components=3)
    for solver in (DDIM(eta=1.0), DPMpp2M()):
        plain = sample(bed, (3, 1, 4, 4), solver, 5, cond=LABELS)
        assert torch.equal(sample(guide(bed, part(name)), (3, 1, 4, 4), solver, 5, cond=LABELS), plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_neighbours(name):
    wide = guide(Local(), part(name))
    together = sample(wide, (3, 1, 4, 10), DPMpp2M(), 5, cond=LABELS, dtype=torch.float64)
    alone = sample(
        wide, (1, 1, 4, 10), DPMpp2M(), 5, cond={"label": LABELS["label"][1:2]}, ids=[1], dtype=torch.float64
    )
    assert torch.allclose(together[1:2], alone, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_windows_have_ids_of_their_own_the_same_at_every_step(name):
    local = Local()
    sample(guide(local, part(name), CFG(2.0)), (3, 1, 6, 10), DDIM(), 3, cond=LABELS)
    for shape, ids, _ in local.calls:
        assert len(set(ids)) == len(ids) == shape[0]
    assert {c[2] for c in local.calls} == {"cond", "uncond"} and len({c[1] for c in local.calls}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_rows_may_stand_at_different_times(name):
    wide, x, t = guide(Local(), part(name)), torch.randn(3, 1, 6, 10), torch.tensor([0.2, 0.5, 0.9])
    both = wide(x, t, LABELS, Clock(ids=(0, 1, 2))).x0
    one = wide(x[2:], t[2], {"label": LABELS["label"][2:]}, Clock(ids=(2,))).x0
    assert torch.allclose(both[2:], one, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"taper": 1.0}, {"stride": (3, 1)}, {"chunk": 2}, {"taper": 0.5, "chunk": 3}])
def test_the_average_is_the_one_of_the_equation(settings):
    rule, x, t = (
        MultiDiffusion((4, 4), **settings),
        torch.randn(2, 1, 7, 10, dtype=torch.float64),
        torch.tensor([0.3, 0.8]),
    )
    said = guide(Local(), rule)(x, t, None, Clock(ids=(0, 1))).velocity
    local, weight = Local(), rule._weight(x)
    total, norm = torch.zeros_like(x), torch.zeros(7, 10, dtype=torch.float64)
    for i, j in rule.corners((7, 10)):
        value = local(x[..., i : i + 4, j : j + 4], t, None, Clock()).velocity
        for p in range(4):
            for q in range(4):
                total[..., i + p, j + q] += weight[p, q] * value[..., p, q]
                norm[i + p, j + q] += weight[p, q]
    assert bool((norm > 0).all()) and torch.allclose(said, total / norm, atol=1e-12)


def test_an_answer_that_needs_no_neighbours_is_not_changed_by_windows():
    """The weights sum to 1: a denoiser that works on each number alone says the same with and without windows."""
    one = Mixture(torch.tensor([[-1.0], [1.0]]), torch.tensor(0.3), Flow())

    class Each:
        process = one.process

        def __call__(self, x, t, cond=None, clock=None):
            said = one(x.reshape(-1, 1), t)
            return Prediction(x, self.process.at(t, x), "x0", said.x0.reshape(x.shape))

    for taper in (0.0, 1.0):
        got = sample(
            guide(Each(), MultiDiffusion((4, 4), taper=taper)), (2, 1, 9, 6), DPMpp2M(), 8, dtype=torch.float64
        )
        assert torch.allclose(got, sample(Each(), (2, 1, 9, 6), DPMpp2M(), 8, dtype=torch.float64), atol=1e-10)


def test_one_axis_and_the_windows_of_an_uneven_size():
    rule = MultiDiffusion((4,), (3,))
    assert (
        rule.corners((10,)) == [(0,), (3,), (6,)]
        and rule.corners((9,)) == [(0,), (3,), (5,)]
        and rule.corners((4,)) == [(0,)]
    )
    assert MultiDiffusion((8, 8)).stride == (4, 4)


@pytest.mark.parametrize(
    "act,words",
    [
        (lambda: MultiDiffusion((4, 4), (5, 1)), "gaps"),
        (lambda: MultiDiffusion((4, 4), (2,)), "one whole number per axis"),
        (lambda: MultiDiffusion((4, 4), taper=2.0), "taper"),
        (
            lambda: guide(Local(), MultiDiffusion((4, 4)))(torch.randn(1, 1, 4, 3), 0.5, None, Clock()),
            "smaller than the window",
        ),
        (
            lambda: guide(Local(), MultiDiffusion((4, 4)))(torch.randn(1, 1, 4, 9), torch.ones(1, 1, 1), None, Clock()),
            "per sample",
        ),
    ],
)
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()


def test_windows_asked_in_several_calls_have_ids_of_their_own_too():
    local = Local()
    guide(local, MultiDiffusion((4, 4), chunk=2))(torch.randn(2, 1, 6, 8), 0.5, None, Clock(ids=(0, 1)))
    ids = [i for call in local.calls for i in call[1]]
    assert len(local.calls) == 3 and len(set(ids)) == len(ids) == 12

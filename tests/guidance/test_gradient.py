"""What every guidance by a gradient keeps to: the exact classifier is that of CFG, rows are alone."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.guidance.cfg import CFG
from ornstein.guidance.classifier import Classifier, calibration_error
from ornstein.guidance.experts import Experts, transfer
from ornstein.guidance.layers.gradient import spread
from ornstein.guidance.layers.noisy import adapted, noised, scaled
from ornstein.guidance.loss import Loss, Recurrence
from ornstein.guidance.minority import Minority, learn_levels, minority_score, quantiles
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
IDS = (0, 1, 2, 3)
PROCESSES = pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
MATRIX = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))


class Bed:
    """A mixture that never hears the label, and writes down how often it was asked."""

    def __init__(self, process=None, std=0.4):
        self.exact, self.calls = Mixture.random(process or Flow(), dims=6, components=4, std=std), []
        self.process = self.exact.process

    def __call__(self, x, t, cond=None, clock=None):
        self.calls.append((clock.branch, clock.ids))
        return self.exact(x, t, None, clock)

    def unconditional(self, cond, batch):
        return self.exact.unconditional(cond, batch)


def linear(x, place=None):
    """A classifier, or a predictor of levels."""
    return x.flatten(1) @ MATRIX.to(x) * (1 if place is None else (1 - place / 2)[:, None])


def exact(mixture):
    def logits(x, place):
        t = mixture.process.time(2 * ((1 - place).log() - place.log()))
        each = [mixture.log_density(x, t, {"label": torch.full((len(x),), k)}) for k in range(4)]
        return torch.stack(each, 1) + mixture.weights.log().to(x)

    return logits


def miss(x, cond):
    return (x - 1).square().sum(1)


MAKES = {
    "classifier": lambda w, **kw: Classifier(linear, w, **kw),
    "classifier, through": lambda w, **kw: Classifier(linear, w, "xt", **kw),
    "classifier, noisy": lambda w, **kw: Classifier(linear, w, "noisy", **kw),
    "classifier, changed": lambda w, **kw: Classifier(lambda x: linear(x.relu()), w, marginal=0.5, beta=3.0, sine=0.3, **kw),
    "experts": lambda w, **kw: Experts((linear, lambda x: linear(-x), lambda x: linear(x / 2)), w, **kw),
    "minority": lambda w, **kw: Minority(linear, w, 2, **kw),
    "loss": lambda w, **kw: Loss(miss, w, **kw),
    "loss, x0": lambda w, **kw: Loss(miss, w, "x0", **kw),
}
each = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
NAMES = ("classifier", "experts", "minority", "loss")


@each
def test_no_strength_is_bit_exact_and_asks_nobody(make):
    def never(*args):
        raise AssertionError("asked")

    for solver in (DDIM(eta=1.0), DPMpp2M()):
        bed = Bed()
        x = sample(guide(bed, make(0.0)), (4, 6), solver, 4, cond=LABELS)
        assert torch.equal(x, sample(Bed().exact, (4, 6), solver, 4)) and len(bed.calls) == 4
    Classifier(never).predict(Bed(), torch.randn(2, 6), 0.5, None, Clock())
    Loss(never).predict(Bed(), torch.randn(2, 6), 0.5, None, Clock())


@each
@PROCESSES
def test_strength_matters_stays_finite_and_costs_one_call(make, process):
    bed = Bed(process)
    x = sample(guide(bed, make(0.5)), (4, 6), DPMpp2M(), 8, cond=LABELS, rule="karras")
    plain = sample(Bed(process).exact, (4, 6), DPMpp2M(), 8, rule="karras")
    assert bool(x.isfinite().all()) and (x - plain).abs().max() > 1e-3 and len(bed.calls) == 8
    assert x.dtype == torch.float32 and not x.requires_grad


@each
def test_a_sample_does_not_depend_on_its_neighbours(make):
    for solver in (DDIM(eta=0.5), DPMpp2M()):
        denoiser = guide(Bed(), make(0.5))
        together = sample(denoiser, (4, 6), solver, 5, cond=LABELS, dtype=torch.float64)
        alone = sample(denoiser, (1, 6), solver, 5, cond={"label": LABELS["label"][2:3]}, ids=[2], dtype=torch.float64)
        assert torch.allclose(together[2:3], alone, atol=1e-10)


@each
@pytest.mark.parametrize("settings", [{}, {"interval": (0.3, 0.7)}, {"unit": True}])
def test_rows_at_different_times_answer_as_if_alone(make, settings):
    denoiser = guide(Bed(), make(1.5, **settings))
    x, t = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.9, 0.69], dtype=torch.float64)
    both = denoiser(x, t, LABELS, Clock(ids=IDS)).x0
    for i in range(4):
        one = denoiser(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]}, Clock(ids=(i,))).x0
        assert torch.allclose(both[i : i + 1], one, atol=1e-10)
    if "interval" in settings:
        plain = Bed().exact(x, t).x0
        assert [torch.equal(a, b) for a, b in zip(both, plain)] == [True, False, True, False]


@each
def test_it_stands_inside_and_outside_of_other_guidance(make):
    bed, x = Bed(), torch.randn(4, 6)
    guide(bed, make(0.5), CFG(2.0))(x, 0.5, LABELS, Clock(ids=IDS))
    assert [c[0] for c in bed.calls] == ["cond", "uncond"] and {c[1] for c in bed.calls} == {IDS}
    null = {"label": torch.full((4,), 4)}
    if make not in (MAKES["minority"], MAKES["loss"], MAKES["loss, x0"]):
        assert torch.allclose(guide(bed, make(0.5))(x, 0.5, null, Clock()).x0, bed.exact(x, 0.5).x0, atol=1e-6)
    assert guide(bed, CFG(2.0), make(0.5))(x, 0.5, LABELS, Clock(ids=IDS)).x0.isfinite().all()


@PROCESSES
@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_the_exact_classifier_is_classifier_free_guidance(process, strength):
    bed = Bed(process)
    x = torch.randn(4, 6, dtype=torch.float64)
    for place in (0.05, 0.5, 0.9, 0.98):
        t = process.time(2 * torch.tensor((1 - place) / place, dtype=torch.float64).log())
        said = guide(bed, Classifier(exact(bed.exact), strength, "noisy"))(x, t, LABELS, Clock(ids=IDS))
        free = guide(bed.exact, CFG(strength))(x, t, LABELS, Clock(ids=IDS))
        uncond = bed.exact(x, t)
        assert torch.allclose(said.x0, uncond.x0 + strength * (bed.exact(x, t, LABELS).x0 - uncond.x0), atol=1e-6)
        if strength == 1:
            assert torch.allclose(said.x0, free.x0, atol=1e-6)


@PROCESSES
@pytest.mark.parametrize("through", ["x0", "xt"])
def test_a_linear_log_density_shifts_a_gaussian_exactly(process, through):
    """p(x0) = N(m, v): tilting by exp(w c.x0) shifts E[x0 | x_t] by w v s^2/(a^2 v + s^2) c, at every place of the gradient."""
    mean, std = torch.full((1, 3), 0.3), 0.7
    gauss = Mixture(mean, torch.tensor(std), process)
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    rule = Loss(lambda x, cond: -(x @ slope.to(x)), 1.3, through, std=std)
    x = torch.randn(5, 3, dtype=torch.float64)
    for place in (0.1, 0.5, 0.9):
        t = process.time(2 * torch.tensor((1 - place) / place, dtype=torch.float64).log())
        L = process.at(t, x)
        moved = guide(gauss, rule)(x, t, None, Clock()).x0 - gauss(x, t).x0
        assert torch.allclose(moved, (1.3 * spread(L, std) * slope).expand(5, 3), atol=1e-8)
        assert float(spread(L, std)) == pytest.approx(1 / (1 / std**2 + float(L.a**2 / L.s**2)))


@PROCESSES
@pytest.mark.parametrize("through", ["x0", "xt"])
def test_a_measurement_of_a_gaussian_gives_its_posterior_mean(process, through):
    """With the noise given: E[x0 | x_t, y] = m_t + r^2 / (r^2 + noise^2) (y - m_t), of the measured coordinates."""
    std, noise, y = 0.7, 0.2, torch.tensor([0.5, -1.0], dtype=torch.float64)
    gauss = Mixture(torch.full((1, 3), 0.3), torch.tensor(std), process)
    rule = Loss(lambda x, cond: (x[:, :2] - y).square().sum(1) / (2 * noise**2), 1.0, through, std=std, noise=noise)
    x = torch.randn(5, 3, dtype=torch.float64)
    for place in (0.1, 0.5, 0.9):
        t = process.time(2 * torch.tensor((1 - place) / place, dtype=torch.float64).log())
        plain, r2 = gauss(x, t).x0, spread(process.at(t, x), std)
        said = guide(gauss, rule)(x, t, None, Clock()).x0
        assert torch.allclose(said[:, :2], plain[:, :2] + r2 / (r2 + noise**2) * (y - plain[:, :2]), atol=1e-8)
        assert torch.allclose(said[:, 2], plain[:, 2])


def test_unit_steps_have_the_size_asked_for_whatever_the_loss():
    x, t, clock = torch.randn(4, 6, dtype=torch.float64), 0.5, Clock(ids=IDS)
    plain = Bed().exact(x, t).x0
    for factor in (1e-3, 1e3):
        rule = Loss(lambda x, c, k=factor: k * miss(x, c), 0.2, "x0", std=0.8, unit=True)
        moved = guide(Bed(), rule)(x, t, None, clock).x0 - plain
        r = spread(Flow().at(t, x), 0.8).sqrt()
        assert torch.allclose(moved.square().mean(1).sqrt(), (0.2 * r).expand(4), atol=1e-6)


def test_the_target_and_the_weight_of_elucidated_guidance():
    x, levels = torch.randn(4, 6), Flow().at(0.3, torch.zeros(4, 6))
    logits = linear(x)
    for marginal in (1.0, 0.5, 0.0):
        said = Classifier(linear, 1.0, marginal=marginal).log_density(x, levels, LABELS)
        chosen = logits[torch.arange(4), LABELS["label"]]
        assert torch.allclose(said, chosen - (marginal * logits).exp().sum(1).log(), atol=1e-5)
    sine, none = (guide(Bed(), Classifier(linear, 1.0, sine=g, std=2.0))(x, 0.3, LABELS, Clock()).x0 for g in (0.3, 0.0))
    r2, moved = 4 * 0.09 / (4 * 0.49 + 0.09), none - Bed().exact(x, 0.3).x0
    assert torch.allclose(sine - none, moved * 0.3 * 4 * torch.tensor(0.3 * torch.pi).sin() / r2, atol=1e-4)


def test_every_relu_is_smoothed_and_only_inside():
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    x, levels = torch.randn(4, 6), Flow().at(0.3, torch.zeros(4, 6))
    for classifier in (net, lambda x: net[2](torch.relu(net[0](x))), lambda x: net[2](net[0](x).relu())):
        said = Classifier(classifier, 1.0, beta=4.0).logits(x, levels)
        assert torch.allclose(said, net[2](torch.nn.functional.softplus(net[0](x), 4.0)))
    assert torch.equal(net(x), net[2](net[0](x).relu()))


def test_calibration_error_of_known_cases():
    sure = torch.tensor([[9.0, -9.0]] * 10)
    assert calibration_error(sure, torch.zeros(10, dtype=torch.long)) < 1e-6
    assert calibration_error(sure, torch.arange(10) % 2) == pytest.approx(0.5, abs=1e-6)
    shy = torch.cat([sure, torch.tensor([[0.02, 0.0]] * 10)])  # as much too shy as too sure does not cancel
    assert calibration_error(shy, torch.cat([torch.arange(10) % 2, torch.zeros(10)]).long()) == pytest.approx(0.5, abs=0.01)


def test_each_expert_has_its_range_and_none_is_asked_outside():
    asked = []

    def expert(k):
        return lambda x: (asked.append((k, len(x))), linear(x))[1]

    denoiser, x = guide(Bed(), Experts(tuple(expert(k) for k in range(5)), 1.0)), torch.randn(4, 6, dtype=torch.float64)
    for place, k in ((1e-6, 0), (0.2, 0), (0.2001, 1), (0.5, 2), (0.81, 4), (1.0, 4)):
        denoiser(x, place, LABELS, Clock(ids=IDS))
        assert asked.pop() == (k, 4) and not asked
    denoiser(x, torch.tensor([0.1, 0.9, 0.15, 0.5], dtype=torch.float64), LABELS, Clock(ids=IDS))
    assert asked == [(0, 2), (2, 1), (4, 1)]


def test_experts_and_predictors_see_samples_of_the_size_of_the_data():
    seen, process = [], EDM()

    def look(x, place=None):
        seen.append(x)
        return linear(x, place)

    x = torch.randn(4, 6, dtype=torch.float64) * 20
    for rule in (Experts((look,), 1.0, std=0.7), Minority(look, 1.0, std=0.7)):
        for t in (20.0, torch.full((4,), 20.0, dtype=torch.float64)):
            guide(Bed(process), rule)(x, t, LABELS, Clock(ids=IDS))
            assert torch.allclose(seen.pop(), x * 0.7 / (0.49 + 400) ** 0.5)


@pytest.mark.parametrize("level", [0, 2, -1])
def test_a_level_is_a_class_like_any_other(level):
    x, levels = torch.randn(4, 6, dtype=torch.float64), Flow().at(0.4, torch.zeros(4, 6))
    same = Classifier(lambda x, place: linear(scaled(x, levels, 0.5), place), 1.0, "noisy")
    label = {"label": torch.full((4,), level % 4)}
    said, other = (guide(Bed(), r)(x, 0.4, label, Clock()).x0 for r in (Minority(linear, 1.0, level), same))
    assert torch.allclose(said, other)


def test_each_expert_learns_its_range(monkeypatch):
    import ornstein.guidance.experts as room

    ranges, real = [], room.noised
    monkeypatch.setattr(room, "noised", lambda p, x, low, high, g: (ranges.append((low, high)), real(p, x, low, high, g))[1])
    transfer(torch.nn.Linear(6, 4), Flow(), torch.randn(8, 6), count=4, rank=1, steps=1)
    assert ranges == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]


def test_experts_start_as_the_guide_learn_little_and_leave_it_alone():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    before, x = [p.clone() for p in net.parameters()], torch.randn(64, 6)
    child = adapted(net, 1)
    assert torch.equal(child(x), net(x))
    learned = sum(p.numel() for p in child.parameters() if p.requires_grad)
    assert learned == (6 + 32) + (32 + 4) + 32 + 4
    experts = transfer(net, Flow(), x, count=2, rank=1, steps=30, std=1.0)
    assert len(experts) == 2 and all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    assert (experts[0](x) - net(x)).abs().max() > 1e-3 and (experts[0](x) - experts[1](x)).abs().max() > 1e-3
    assert not any(p.requires_grad for e in experts for p in e.parameters())


def test_noised_samples_stand_where_they_should():
    source, x0 = torch.Generator().manual_seed(0), torch.randn(500, 3)
    for process in (Flow(), VP(), EDM()):
        x, levels, place = noised(process, x0, 0.4, 0.6, source)
        assert torch.allclose(levels.flow_time[:, 0], place, atol=1e-5) and place.min() > 0.4 and place.max() < 0.6
        assert scaled(x, levels, 1.0).std() == pytest.approx(1.0, abs=0.1)


def test_the_minority_score_ranks_and_stands_alone():
    mixture = Mixture(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor(0.3), Flow(), torch.tensor([0.95, 0.05]))
    x0 = mixture.means.float().repeat_interleave(20, 0)
    score = minority_score(mixture, x0, 0.6, 8)
    assert score[20:].mean() > 2 * score[:20].mean()
    assert torch.allclose(minority_score(mixture, x0[5:6], 0.6, 8), score[5:6], atol=1e-6)
    exact = minority_score(mixture, x0, 0.6, 8, distance=lambda a, b: (a - b).abs().amax(1))
    assert bool((exact >= score - 1e-6).all())
    assert not torch.allclose(minority_score(mixture, x0, 0.6, 1), minority_score(mixture, x0, 0.6, 2))
    assert quantiles(torch.tensor([3.0, 1.0, 2.0, 0.0, 9.0]), 2).tolist() == [1, 0, 0, 0, 1]


def test_a_predictor_of_levels_learns_and_is_the_same_again():
    x0 = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    level = quantiles(x0[:, 0], 3)
    net, again = (learn_levels(Flow(), x0, level, steps=60, std=1.0) for _ in range(2))
    right = (net(x0, torch.full((400,), 0.05)).argmax(1) == level).float().mean()
    assert right > 0.8 and all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))


class Watch(Controller):
    """How often each step was begun, and from where."""

    def __init__(self):
        self.seen = []

    def on_prediction(self, clock, x, prediction):
        self.seen.append((clock.step, x.clone()))
        return prediction


@PROCESSES
def test_recurrence_takes_each_step_so_often_from_fresh_noise(process):
    watch = Watch()
    plain = sample(Bed(process), (4, 6), DDIM(), 5)
    assert torch.equal(sample(Bed(process), (4, 6), DDIM(), 5, controllers=[Recurrence(1)]), plain)
    x = sample(Bed(process), (4, 6), DDIM(), 5, controllers=[Recurrence(3), watch])
    assert [k for k, _ in watch.seen] == [k for k in range(5) for _ in range(3)] and (x - plain).abs().max() > 1e-3
    starts = [v for k, v in watch.seen if k == 2]
    assert (starts[1] - starts[2]).abs().max() > 1e-3
    some = Watch()
    sample(Bed(process), (4, 6), DDIM(), 5, controllers=[Recurrence(2, (0.3, 0.7)), some])
    inside = [0.3 < float(process.at(t, x).flow_time) <= 0.7 for t in torch.linspace(process.t_max, 0, 6)[:5].double()]
    if isinstance(process, Flow):
        assert [k for k, _ in some.seen] == [k for k in range(5) for _ in range(1 + inside[k])]
    alone = sample(Bed(process), (1, 6), DDIM(), 5, ids=[2], controllers=[Recurrence(3), Watch()])
    assert torch.allclose(alone, x[2:3], atol=1e-5)


def test_recurrence_keeps_the_law():
    """From the exact denoiser, going back by the forward kernel leaves the marginal as it is."""
    gauss = Mixture(torch.full((1, 1), 0.5), torch.tensor(0.8), VP())
    x = sample(gauss, (4000, 1), DPMpp2M(), 48, controllers=[Recurrence(2)])
    assert x.mean() == pytest.approx(0.5, abs=0.03) and x.std() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_without_anything_to_follow_it_says_what_to_give(name):
    with pytest.raises(OrnsteinError, match="nothing to follow"):
        catalog.build("guidance", f"{name}:strength=2")
    assert catalog.build("guidance", name).strength == 0


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: Classifier(linear, 1.0, "nosy"), "Did you mean 'noisy'"),
        (lambda: Classifier(linear, 1.0, std=0.0), "above 0"),
        (lambda: Classifier(linear, float("nan")), "finite"),
        (lambda: Classifier(linear, 1.0, interval=(0.7, 0.3)), "rising pair"),
        (lambda: Classifier(linear, 1.0, "xt", sine=0.3), "sine belongs"),
        (lambda: guide(Bed(), Classifier(linear, 1.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition 'label'"),
        (lambda: guide(Bed(), Classifier(linear, 1.0, beta=3.0))(torch.randn(4, 6), 0.5, LABELS, Clock()), "no ReLU"),
        (lambda: guide(Bed(), Experts((linear,), 1.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition 'label'"),
        (lambda: guide(Bed(), Minority(linear, 1.0, 4))(torch.randn(2, 6), 0.5, None, Clock()), "no level 4"),
        (lambda: guide(Bed(), Loss(lambda x, c: miss(x, c).mean(), 1.0))(torch.randn(2, 6), 0.5, None, Clock()), "one log-density"),
        (lambda: guide(Bed(), Loss(lambda x, c: x.argmax(1), 1.0, "x0"))(torch.randn(2, 6), 0.5, None, Clock()), "by a gradient"),
        (lambda: Loss(miss, 1.0, "noisy"), "no loss of noisy"),
        (lambda: Recurrence(0), "at least 1"),
        (lambda: adapted(torch.nn.ReLU(), 2), "to adapt"),
        (lambda: adapted(torch.nn.Linear(2, 2), 0), "at least 1"),
        (lambda: minority_score(Bed(), torch.randn(2, 6), 1.0), "flow time"),
        (lambda: quantiles(torch.randn(3), 5), "score for each"),
    ],
)  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()

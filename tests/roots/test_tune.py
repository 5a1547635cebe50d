"""The promise: a plan within the bound on seeds that the search never saw, or none; refused for any other use."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

import ornstein as package
from ornstein import OrnsteinError, Plan, cost, tune
from ornstein.quality import Trial
from ornstein.tune import Goal, Search, Tuned, label


@pytest.fixture(scope="module")
def digits():
    return package.load("digits")


@pytest.fixture(autouse=True, scope="module")
def _small(tmp_path_factory):
    """Fewer solvers, samples and extras: the same search in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "SOLVERS", ("deis", "ddim"))
        patch.setattr(tune, "GRIDS", ("beta",))
        patch.setattr(tune, "LADDER", (2, 3, 4, 6, 8, 12))
        patch.setattr(tune, "FEW", 6)
        patch.setattr(tune, "SOME", 16)
        patch.setattr(tune, "MANY", 24)
        patch.setattr(tune, "accelerations", lambda model: ["firstblock:threshold=0.2", "taylorseer:interval=2"])
        patch.setattr(tune, "predict", partial(cost.predict, cache=tmp_path_factory.mktemp("profiles")))
        patch.setattr(cost, "TRIES", 2)
        yield


ACCELERATIONS = tune.accelerations


def go(model, bound, tmp_path=None, metric="latent", **more):
    return tune.tune(model, Goal(metric, bound), 60.0, reference=model.plan(steps=20), batch=8, out=tmp_path, **more)


@pytest.fixture(scope="module")
def found(digits, tmp_path_factory):
    """(a search for a bound of 0.1, its folder)."""
    out = tmp_path_factory.mktemp("found")
    return go(digits, 0.1, out), out


def test_a_plan_that_keeps_the_bound_on_seeds_of_its_own(digits, found):
    made, out = found
    plan = made.plan
    assert plan.steps < 12 and plan.figures["high"] < 0.13
    assert plan.figures["n"] == 24 and plan.figures["times_faster"] > 1.2
    trial = Trial(digits, reference=digits.plan(steps=20), batch=8)
    assert trial.loss("latent", trial.draw(plan, 4242, 48)[0], 4242).mean <= 0.1
    assert Plan.load(out / "plan.json") == replace(plan, figures=json.loads(json.dumps(plan.figures)))
    page = (out / "report.html").read_text()
    assert "Found:" in page and "<svg" in page and all(label(p.plan) in page for p in made.points)


def test_a_bound_out_of_reach_is_refused_with_what_is_within(digits, tmp_path):
    (tmp_path / "plan.json").write_text("of an earlier search")
    made = go(digits, 1e-6, tmp_path)
    assert made.plan is None and not (tmp_path / "plan.json").exists()
    with pytest.raises(OrnsteinError, match=r"no plan cheaper than the reference keeps latent below 1e-06"):
        raise made.refuse()
    assert "Nothing found" in (tmp_path / "report.html").read_text()


def test_the_promise_is_of_other_seeds_and_shares_the_doubt(digits, monkeypatch):
    """Each attempt has its own seed; its confidence is 1 - (1 - c) / attempts; the first that keeps the bound wins."""
    search = Search(Trial(digits, reference=digits.plan(steps=12), batch=8), Goal("latent", 0.1), 60.0, 3, None, None)
    seeds = []

    class Fixed:
        def __init__(self, high):
            self.high = high

        def below(self, confidence):
            seeds[-1] = (*seeds[-1], confidence)
            return self.high

    def measure(point, seed, count):
        seeds.append((seed, count))
        return Fixed({1: 0.2, 2: 0.05, 3: 0.01}[point.plan.steps])

    monkeypatch.setattr(search, "measure", measure)
    points = [tune.Point(digits.plan(steps=n), n / 10, 0.0, "finals") for n in (1, 2, 3)]
    assert search.promise(points) is points[1] and "not below 0.1" in points[0].why
    assert [s for s, *_ in seeds] == [tune.PROMISE + 3 * 4, tune.PROMISE + 3 * 4 + 1]  # no other search's either
    assert all(c[-1] == pytest.approx(1 - 0.05 / 4) and c[1] == 24 for c in seeds)
    seeds.clear()
    search.points = {"one": points[0]}
    more = []
    monkeypatch.setattr(search, "more", lambda tried: more.append(len(tried)) or points[0])
    assert search.promise([points[0]] * 9) is None and len(seeds) == 4  # as many attempts as the doubt is shared among
    assert more == [3]  # the last is for what has more steps


def test_more_steps_than_the_nearest(digits):
    search = Search(Trial(digits, reference=digits.plan(steps=20), batch=8), Goal("latent", 0.1), 60.0, 0, None, None)
    assert search.more([]) is None
    near, far = search.try_plan(digits.plan(steps=8), "x"), search.try_plan(digits.plan(steps=4), "x")
    assert search.more([]).plan.steps == 10 and search.more([far]).plan.steps == 5 and near.share < 1
    assert search.more([search.try_plan(digits.plan(steps=17), "x")]) is None  # 21 steps cost more than the reference


def test_the_fewest_steps_by_halving(digits, monkeypatch):
    search = Search(Trial(digits, reference=digits.plan(steps=20), batch=8), Goal("latent", 0.1), 60.0, 0, None, None)
    asked = []

    def tried(plan, stage):
        asked.append(plan.steps)
        return tune.Point(plan, plan.steps / 20, 1.0 / plan.steps**2, stage)

    monkeypatch.setattr(search, "try_plan", tried)
    search.bound = 1 / 16 / tune.SLACK  # 4 steps keep it
    assert search.fewest(digits.plan(), "x").plan.steps == 4 and len(asked) <= 3
    assert search.fewest(digits.plan(), "x", most=0.1) is None  # what would keep it costs more
    search.bound = 1e-9
    assert search.fewest(digits.plan(), "x") is None


def test_an_interrupted_search_goes_on(digits, found, tmp_path, monkeypatch):
    first, out = found
    (tmp_path / "tune.json").write_bytes((out / "tune.json").read_bytes())
    tried, real = [], Trial.draw

    def draw(self, plan, seed, count):
        tried.append((label(plan), seed, count))
        return real(self, plan, seed, count)

    monkeypatch.setattr(Trial, "draw", draw)
    again = go(digits, 0.1, tmp_path)
    known = {label(p.plan) for p in first.points}
    assert known <= {label(p.plan) for p in again.points}
    assert not {plan for plan, seed, count in tried if (seed, count) == (0, tune.FEW)} & known  # none is searched again
    (tmp_path / "tune.json").write_text("{")
    loose = go(digits, 0.3, tmp_path).plan
    assert loose.steps <= first.plan.steps  # a looser bound is not slower


def test_a_promised_plan_is_refused_for_another_use(digits, tmp_path):
    made = replace(digits.plan(steps=4), figures={"loss": 0.01})
    made = replace(made, made_for=digits.use(made))
    assert digits.generate("3", made).record.facts["samples"] == 1
    told = {"parts": ({"solver": "heun"}, "parts 'deis:points=2, beta', not for 'heun, beta'"),
            "steps": ({"steps": 5}, "steps '4', not for '5'"), "shape": ({"size": (16, 16)}, "shape '1x8x8', not for '1x16x16'"),
            "guidance": ({"guidance": "cfg:scale=2"}, "guidance '', not for 'cfg:scale=2'")}  # fmt: skip
    for changes, words in told.values():
        with pytest.raises(OrnsteinError, match=words):
            digits.generate("3", made, **changes)
    forced = digits.generate("3", made, steps=5, force=True)
    assert "steps '4'" in forced.record.facts["forced"][0] and forced.plan.figures == {}
    other = replace(made, made_for=made.made_for | {"libraries": "ornstein 0, torch 1.0"})
    with pytest.raises(OrnsteinError, match="libraries"):
        digits.generate("3", other)
    with pytest.raises(OrnsteinError, match="plan was made for 'digits'"):
        package.load("digits-unet").generate("3", made)
    assert digits.generate("3", replace(made, figures={}, made_for={}), steps=5)  # nothing was promised of it


def test_goals(digits):
    for wrong in (
        {"metric": "laten"},
        {"objective": "second"},
        {"max_loss": 0.0},
        {"confidence": 1.0},
        {"max_loss": float("nan")},
    ):
        with pytest.raises(OrnsteinError):
            Goal(**wrong)
    with pytest.raises(OrnsteinError, match="budget of 0"):
        tune.tune(digits, Goal(), 0)


def test_accelerations_are_those_that_fit(digits):
    names = {t.partition(":")[0] for t in ACCELERATIONS(digits)}
    assert {"taylorseer", "firstblock"} <= names and "deepcache" not in names
    assert "deepcache" in {t.partition(":")[0] for t in ACCELERATIONS(package.load("digits-unet"))}
    assert tune._knobs("interval=3") == ["interval=3", "interval=2", "interval=4"] and tune._knobs("a=1,b=2") == [
        "a=1,b=2"
    ]
    assert tune._knobs("threshold=0.1") == ["threshold=0.1", "threshold=0.05", "threshold=0.2"] and tune._knobs(
        "kind=x"
    ) == ["kind=x"]


def test_on_the_command_line(ornstein, tmp_path):
    ran = ornstein("tune", "digits", "--max-loss", 0.4, "--budget", "20s", "--batch", 8, "--out", "t")
    assert ran.code == 0 and "times faster" in ran.out and (tmp_path / "t" / "plan.json").is_file(), ran.err
    assert ornstein("generate", "3", "--model", "digits", "--plan", "t/plan.json", "--out", "p").code == 0
    refused = ornstein(
        "generate", "3", "--model", "digits", "--plan", "t/plan.json", "--out", "q", "--guidance", "cfg:scale=3"
    )
    assert refused.code == 2 and "guidance" in refused.err
    assert (
        ornstein(
            "generate", "3", "--model", "digits", "--plan", "t/plan.json", "--out", "q", "--guidance", "3", "--force"
        ).code
        == 0
    )
    assert "cannot read --budget soon" in ornstein("tune", "digits", "--max-loss", 0.2, "--budget", "soon").err


def test_a_refusal_knows_nothing_too():
    assert "nothing" in str(Tuned(Goal(), None, None, [], Plan(), 0.0).refuse()) and torch.get_num_threads() == 1


def test_optuna_searches_the_same_space(digits):
    pytest.importorskip("optuna", reason="optuna is not installed")
    made = tune.tune(digits, Goal("latent", 0.4), 4.0, reference=digits.plan(steps=20), batch=8, sampler="optuna")
    assert made.plan and made.plan.figures["loss"] <= 0.4 and {p.stage for p in made.points} & {"optuna"}


def test_unknown_sampler_and_one_that_is_not_there(digits, monkeypatch):
    with pytest.raises(OrnsteinError, match="Did you mean 'optuna'"):
        tune.tune(digits, sampler="optunna")
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(OrnsteinError, match=r"ornstein\[tune\]"):
        Search(Trial(digits, reference=digits.plan(steps=8), batch=8), Goal(), 9.0, 0, None, None).sampled()


def test_a_part_that_leaves_nothing_out_is_no_plan(digits):
    search = Search(Trial(digits, reference=digits.plan(steps=12), batch=8), Goal("latent", 0.1), 60.0, 0, None, None)
    idle = digits.plan(steps=4, accelerate=("firstblock:threshold=0.000001",))
    assert search.try_plan(idle, "x") is None and search.left_out[label(idle)] == "FirstBlock left nothing out"
    assert label(idle) not in search.points and search.try_plan(digits.plan(steps=4, accelerate=("tome:ratio=0.5",)), "x")


def test_where_nothing_is_found_the_exit_code_is_1(ornstein, monkeypatch):
    monkeypatch.setattr(tune, "tune", lambda *a, **k: Tuned(Goal(), None, None, [], Plan(), 0.0))
    ran = ornstein("tune", "digits", "--max-loss", 0.1)
    assert ran.code == 1 and "no plan cheaper than the reference" in ran.err and "Within reach: nothing" in ran.err


def test_tokens_have_no_latents_to_search_by():
    with pytest.raises(OrnsteinError, match="tokens, which are right or wrong"):
        tune.tune(package.load("digits-tokens"), Goal("accuracy", 0.1))
    with pytest.raises(OrnsteinError, match="budget of nan"):
        tune.tune(package.load("digits-tokens"), Goal(), float("nan"))


def test_the_bound_of_a_metric_is_put_in_latents(digits, monkeypatch):
    """By the reference's own solver and guidance, at fewer steps than it has; what keeps the bound counts, and half more."""
    reference = digits.plan(steps=8, solver="ddim", guidance=("cfg:scale=2",), grid="uniform")
    search = Search(Trial(digits, reference=reference, batch=8), Goal("rms", 0.05), 60.0, 0, None, None)
    asked, losses = [], {2: (0.3, 0.5), 4: (0.04, 0.08), 6: (0.02, 0.03)}

    def draw(plan, seed, count):
        asked.append(plan)
        return plan.steps, None

    class Said:
        def __init__(self, mean):
            self.mean = mean

    monkeypatch.setattr(search.trial, "draw", draw)
    monkeypatch.setattr(search.trial, "loss", lambda metric, steps, seed: Said(losses[steps][metric == "latent"]))
    monkeypatch.setattr(tune, "LADDER", (2, 3, 4, 5, 6, 7, 8, 10))
    search.translate()
    assert search.bound == pytest.approx(1.5 * 0.08) and {p.steps for p in asked} == {2, 4, 6}
    assert all(replace(p, steps=8) == reference for p in asked)
    losses |= {k: (1.0, 0.7) for k in (2, 4, 6)}
    search.translate()
    assert search.bound == 0.7  # nothing keeps it: what a few steps lose


def test_a_spent_budget_still_makes_one_attempt_and_no_more(digits, monkeypatch):
    search = Search(Trial(digits, reference=digits.plan(steps=12), batch=8), Goal("latent", 0.1), 60.0, 0, None, None)
    search.began -= 600
    points, measured = [tune.Point(digits.plan(steps=n), n / 20, 0.0, "finals") for n in (3, 4, 5)], []

    class High:
        def below(self, confidence):
            return 1.0

    monkeypatch.setattr(search, "measure", lambda p, seed, count: measured.append(p) or High())
    assert search.promise(points) is None and measured == points[:1]
    search.points = {label(p.plan): p for p in points}
    assert search.finalists() == []


def test_copies_of_the_network_are_made_before_the_clock_runs(digits, monkeypatch):
    trial, drawn = Trial(digits, reference=digits.plan(steps=4), batch=4), []
    monkeypatch.setattr(trial, "draw", lambda plan, seed, count: drawn.append(count))
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(tune, "now", lambda device: next(clock))
    assert tune.seconds(trial, digits.plan(steps=4)) == 1.0 and drawn == [4]
    tune.seconds(trial, digits.plan(steps=4, compress=("int8",)))
    tune.seconds(trial, digits.plan(steps=4, compile=True))
    assert drawn == [4, 1, 4, 4, 4]

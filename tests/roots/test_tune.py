"""The promise: a plan within the bound on seeds that the search never saw, or none; refused for any other use."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

import ornstein as package
from ornstein import OrnsteinError, Plan, cost, finals, tune
from ornstein.finals import Finals
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
        patch.setattr(finals, "MANY", 48)
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
    assert plan.figures["n"] == 48 and plan.figures["times_faster"] > 1.2
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


def searching(digits, bound=0.1, steps=20, budget=60.0, seed=0, **goal):
    trial = Trial(digits, reference=digits.plan(steps=steps), batch=8)
    return Search(trial, Goal("latent", bound, **goal), budget, seed, None, None)


def point(digits, steps, share=None, loss=None, proxy=0.0):
    return tune.Point(digits.plan(steps=steps), steps / 20 if share is None else share, proxy, "finals", loss)


class Said:
    """A loss whose bounds are given."""

    def __init__(self, mean, wide=0.0):
        self.mean, self.wide, self.n = mean, wide, 9

    def below(self, confidence):
        return self.mean + self.wide * (confidence > 0.9)

    def interval(self):
        return self.mean, self.mean


@pytest.fixture
def walked(digits, monkeypatch):
    """(finals, what was measured as (steps, seed, count)); the mean loss of n steps is 0.6 / n."""
    judge, asked = Finals(searching(digits, seed=3)), []

    def measure(p, seed, count):
        asked.append((p.plan.steps, seed, count))
        judge.told[label(p.plan)] = said = Said(0.6 / p.plan.steps)
        p.loss = (said.mean, said.mean, said.mean, 9)
        return said

    monkeypatch.setattr(judge, "measure", measure)
    return judge, asked


def test_the_front_is_walked_down_to_the_first_that_breaks_the_bound(digits, walked):
    """On the same fresh seeds; what comes after a failure is never asked, though it would pass."""
    judge, asked = walked
    front = [point(digits, n) for n in (12, 7, 5, 8)]
    assert judge.promise(front) is front[1] and "a cheaper one" in front[0].why and "not below 0.1" in front[2].why
    assert [n for n, *_ in asked] == [12, 7, 5] and front[1].why == ""
    assert {seed for _, seed, _ in asked} == {finals.PROMISE + 3000} and len({count for *_, count in asked}) == 1
    judge.promise(front)
    assert asked[-1][1] == finals.PROMISE + 3001  # another walk has other seeds


def test_the_doubt_is_shared_among_the_walks_alone(digits, walked, monkeypatch):
    judge, _ = walked
    assert judge.sure == pytest.approx(1 - 0.05 / 2)
    sure = []
    monkeypatch.setattr(Said, "below", lambda self, confidence: sure.append(confidence) or self.mean)
    judge.walk([point(digits, n) for n in (12, 7)])
    assert set(sure) == {judge.sure}


def test_one_more_chance_with_as_many_more_steps_as_the_bound_was_missed_by(digits, walked):
    judge, asked = walked
    won = judge.promise([point(digits, 5), point(digits, 4)])
    assert won.plan.steps == 6 + 1 and [n for n, *_ in asked] == [5, 7]  # 5 steps lose 0.12: a quarter more, rounded up
    assert asked[0][1] != asked[1][1]
    asked.clear()
    judge.search.points.clear()
    assert judge.promise([point(digits, 2)]) is None and [n for n, *_ in asked] == [2, 4]  # twice as many at most
    assert judge.promise([]) is not None  # nothing was likely: the nearest goes on with more steps


def test_the_second_walk_begins_safely_and_goes_on_boldly(digits, walked):
    """With plans that the metric has measured already, too; those that lie between what is safe and what failed come after."""
    judge, asked = walked
    for steps, proxy in ((12, 0.01), (10, 0.02), (8, 0.03), (7, 0.04), (9, 0.073), (6, 0.075), (3, 0.08), (5, 0.09)):
        known = point(digits, steps)
        known.proxy, known.share = proxy, steps / 20
        judge.search.points[label(known.plan)] = known
    measured = judge.search.points[label(point(digits, 8).plan)]
    judge.measure(measured, 0, 64)
    failed = judge.search.points[label(point(digits, 5).plan)]
    asked.clear()
    assert judge.promise([failed]).plan.steps == 6  # 3 steps are cheaper yet than those that failed, and fail
    assert [n for n, *_ in asked] == [5, 7, 6, 3] and len({seed for _, seed, _ in asked[1:]}) == 1
    assert judge.safer([failed], [failed]) is judge.search.points[label(point(digits, 7).plan)]
    judge.search.points.pop(label(point(digits, 7).plan))
    measured.proxy = 0.08  # what the metric told is better than what few samples do
    assert judge.safer([failed], [failed]) is measured and judge.safer([failed]).plan.steps == 10
    measured.proxy = 0.03
    judge.search.points = {k: p for k, p in judge.search.points.items() if p.plan.steps in (5, 8, 10, 12)}
    assert [p.plan.steps for p in judge.again([failed])] == [8]
    judge.search.points[label(point(digits, 4).plan)] = replace(point(digits, 4), proxy=0.2)
    assert [p.plan.steps for p in judge.again([failed])] == [8]  # worse than what failed


def test_a_spent_budget_still_makes_one_walk_and_no_more(digits, walked):
    judge, asked = walked
    judge.search.began -= 600
    assert judge.promise([point(digits, 5)]) is None and [n for n, *_ in asked] == [5]
    assert judge.search.spent() > 1 and judge() == []


def test_what_is_safer(digits):
    judge = Finals(searching(digits))
    assert judge.safer([]) is None
    near, far = judge.search.try_plan(digits.plan(steps=8), "x"), judge.search.try_plan(digits.plan(steps=4), "x")
    assert judge.safer([]).plan.steps == 10  # of what is known the best, and a quarter more steps
    judge.told[label(far.plan)], far.loss = Said(0.16), (0.16,) * 4
    assert judge.safer([far]) is near  # 1.6 times the bound, and on few samples it lost that much less
    judge.search.points.clear()
    assert judge.safer([far]).plan.steps == 7
    judge.search.points.clear()
    much = replace(far.plan, accelerate=("skip:blocks=1",), guidance=("cfg:scale=2,interval=(0,0.5)",))
    much = tune.Point(much, 0.2, far.proxy, "x", (0.16,) * 4)
    judge.told[label(much.plan)] = Said(0.16)
    assert judge.safer([much]).plan == replace(far.plan, steps=7)  # what was added may be what hurts
    late = judge.search.try_plan(digits.plan(steps=17), "x")
    judge.told[label(late.plan)] = Said(0.01)
    assert judge.safer([late]) is None  # 22 steps cost more than the reference


def test_the_front_has_what_nothing_cheaper_is_as_good_as(digits):
    judge = Finals(searching(digits))
    points = [point(digits, n) for n in (2, 4, 6, 8, 10, 12)]
    losses = {2: (0.09, 0.1), 4: (0.095, 0.0), 6: (0.05, 0.1), 8: (0.03, 0.01), 10: (0.02, 0.0), 12: (0.01, 0.0)}
    judge.told = {label(p.plan): Said(*losses[p.plan.steps]) for p in points}
    assert [p.plan.steps for p in judge.front(points)] == [8, 6, 2]  # 8 is safe: what is dearer is not needed
    assert judge.front([]) == []


def test_few_samples_are_put_straight_by_more(digits, monkeypatch):
    """The latents of few samples say half of the truth: after the first is measured, the search goes on where it is likely."""
    judge, asked = Finals(searching(digits)), []
    for n in range(2, 20):
        judge.search.points[str(n)] = p = point(digits, n, proxy=0.3 / n)
        judge.search.points[label(p.plan)] = judge.search.points.pop(str(n))

    def measure(p, seed, count):
        asked.append(p.plan.steps)
        p.loss = (2 * p.proxy,) * 4

    monkeypatch.setattr(judge, "measure", measure)
    judge.judged()
    assert asked == [3, 6, 7, 8, 9, 10, 11, 12]  # 3 steps: 0.1 as it seemed, 0.2 in truth; 6 steps are the first within


def test_neighbours_of_the_cheapest_are_measured_too(digits, walked):
    judge, asked = walked
    for_sure = {label(p.plan): p for p in (point(digits, 8, loss=(0.07,) * 4), point(digits, 12, loss=(0.05,) * 4))}
    judge.neighbours(for_sure)
    assert [n for n, *_ in asked] == [9, 7, 11]


def test_how_many_samples_the_time_allows(digits):
    judge = Finals(searching(digits, budget=100.0))
    judge.search.second, judge.search.began = 0.5, judge.search.began - 50
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finals, "MANY", 10_000)
        assert judge.affordable([point(digits, 5), point(digits, 5)]) in (40, 48)  # 35 s over 0.75 s, in batches of 8
        judge.search.second = 0.01
        assert 2200 <= judge.affordable([point(digits, 10)]) <= 2400
    assert judge.affordable([point(digits, 5)]) == finals.MANY
    judge.search.second = 50.0
    assert judge.affordable([point(digits, 5)]) == finals.LEAST


def test_compiled_where_it_is_faster(digits, monkeypatch):
    judge = Finals(searching(digits, budget=1000.0))
    front = [point(digits, 6), point(digits, 4)]
    judge.told = {label(p.plan): Said(0.01) for p in front}
    monkeypatch.setattr(judge.trial, "draw", lambda *a: None)
    monkeypatch.setattr(finals, "seconds", lambda trial, plan: 0.8 if plan.compile else 1.0)
    made = judge.as_compiled(front)
    assert all(p.plan.compile for p in made) and made[1].share == pytest.approx(0.8 * 0.2) and label(made[0].plan) in judge.told
    monkeypatch.setattr(finals, "seconds", lambda trial, plan: 0.99 if plan.compile else 1.0)
    assert judge.as_compiled(front) is front
    judge.search.began -= 950
    monkeypatch.setattr(finals, "seconds", lambda trial, plan: pytest.fail("there is no time to compile"))
    assert judge.as_compiled(front) is front


def test_the_way_to_run_the_network(digits, monkeypatch):
    """bfloat16 or int8, where it is faster and its own error is a third of the bound at most."""
    clock = {"float32": 1.0, "bfloat16": 0.5, "int8": 0.7}
    monkeypatch.setattr(tune, "seconds", lambda trial, plan: clock["int8" if plan.compress else plan.dtype])
    search = searching(digits, 0.3)
    search.ways()
    assert search.way == {"dtype": "bfloat16"} and search.base().dtype == "bfloat16" and search.own().dtype == "float32"
    clock["bfloat16"] = 1.2
    search = searching(digits, 0.3)
    search.ways()
    assert search.way == {"compress": ("int8",)}
    clock["int8"] = 0.99
    search = searching(digits, 0.3)
    search.ways()
    assert search.way == {}  # what saves so little is not worth it
    clock |= {"bfloat16": 0.5}
    search = searching(digits, 1e-4)
    search.ways()
    assert search.way == {}  # the error of either is above that
    search = searching(digits, 0.3, objective="memory")
    search.ways()
    assert search.way == {"compress": ("int8",)}  # the weights of bfloat16 stay where they are
    search = searching(digits, 0.3, objective="flops")
    monkeypatch.setattr(search.trial, "draw", lambda *a: pytest.fail("no way has fewer of them"))
    search.ways()
    assert search.way == {}


def test_what_was_refused_is_tried_again_on_other_seeds(digits, tmp_path):
    """The walks so far are kept with the search, and each has seeds of its own."""
    told = (Trial(digits, reference=digits.plan(steps=20), batch=8), Goal("latent", 0.1), 60.0, 0, None, tmp_path / "t.json")
    search = Search(*told)
    search.walks = 3
    search.save()
    assert Search(*told).walks == 3 and Search(*told[:2], 60.0, 1, None, told[5]).walks == 0


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


def test_copies_of_the_network_are_made_before_the_clock_runs(digits, monkeypatch):
    trial, drawn = Trial(digits, reference=digits.plan(steps=4), batch=4), []
    monkeypatch.setattr(trial, "draw", lambda plan, seed, count: drawn.append(count))
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(finals, "now", lambda device: next(clock))
    assert finals.seconds(trial, digits.plan(steps=4)) == 1.0 and drawn == [4]
    finals.seconds(trial, digits.plan(steps=4, compress=("int8",)))
    finals.seconds(trial, digits.plan(steps=4, compile=True))
    assert drawn == [4, 1, 4, 4, 4]

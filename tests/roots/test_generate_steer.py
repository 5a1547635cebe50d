"""Steering, rewards, negative prompts and named guidance, as `generate` takes them from a text."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from ornstein import resolve, rewards
from ornstein.bench_guidance import everyone
from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.evaluate import flatten
from ornstein.guidance.cfg import CFG
from ornstein.metrics.layers.digits import classifier
from ornstein.model import load
from ornstein.steering.best_of_n import BestOfN
from ornstein.steering.teleport import fit
from ornstein.steering.w2sd import W2SD

STEER = {"best_of_n": "best_of_n:budget=3", "fk": "fk:budget=3,potential=difference", "svdd": "svdd:budget=3",
         "rbf": "rbf:quota=3", "zero_order": "zero_order:budget=2,rounds=2", "path_search": "path_search:budget=4",
         "hallucination": "hallucination:budget=3", "w2sd": "w2sd"}  # fmt: skip
REFUSED = {"boundary": "steering.boundary.fit", "noise_policy": "noise_policy:policy='FILE", "teleport": "steering.teleport.fit"}
LEARNED = {"invariant", "minority", "aggregation"}  # guidances that ask for what is trained for the model
SPECS = {"autoguidance": "autoguidance:scale=2,bad='digits-unet'", "compose": "compose:others=('7',),weights=(1,)",
         "blackscholes": "blackscholes:others=('7',)", "ensemble": "ensemble:others=('digits-unet',),weights=(0.5,)",
         "stitch": "stitch:others=('digits-unet',),shares=(0.5,)", "superdiff": "superdiff:others=('7',)",
         "thresholding": "thresholding:bound=0.5"}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return load("digits")


class _Swapped:
    """A rule that puts another network into the denoiser."""

    def __init__(self, network):
        self.network = network

    def predict(self, denoiser, x, t, cond, clock):
        assert isinstance(denoiser, Denoiser)
        return replace(denoiser, backbone=self.network)(x, t, cond, clock)


def facts(model, **wanted):
    return model.generate(["3", "7", "1"], **({"steps": 4} | wanted)).record.facts


# ---- steering


def test_every_controller_is_tried_here():
    assert {e.name for e in catalog.entries("steering")} == set(STEER) | set(REFUSED)


@pytest.mark.parametrize("name", STEER)
def test_every_search_runs_from_its_text_and_leaves_its_facts(name, digits):
    wanted = {"solver": "ddim:eta=1", "grid": "uniform"} if name == "rbf" else {}
    told = facts(digits, steer=STEER[name], guidance="cfg:scale=2" if name == "w2sd" else None, **wanted)
    assert json.loads(json.dumps(told))["steer"]["parts"] == [STEER[name]] and told[name]
    if "reward" in {f.name for f in fields(catalog.load("steering", name))}:
        steer = told["steer"]
        assert steer["reward"] == "class" and len(steer["rewards"]) == 3 and steer["reward_calls"] >= 3
        assert all(len(v) == 3 for k, v in told[name].items() if k in ("chosen", "ess", "weights"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_learned_first_is_told(name, digits):
    with pytest.raises(OrnsteinError, match=REFUSED[name]):
        facts(digits, steer=name)


def test_a_file_stands_for_what_was_learned(digits, tmp_path):
    data = catalog.build("data", "digits")
    file = fit(data.images(), rank=8).save(tmp_path / "t.safetensors")
    told = facts(digits, steer=f"teleport:statistics='{file}',skip=1")
    assert told["teleport"]["skip"] == 1 and told["nfe"] == 3


def test_text_and_controller_are_the_same_and_batches_do_not_matter(digits):
    text = digits.generate(["3", "7", "1"], steps=4, steer="best_of_n:budget=3", reward="ink")
    part = digits.generate(["3", "7", "1"], steps=4, steer=[BestOfN(rewards.reward("ink", digits), 3)])
    assert torch.equal(text.x, part.x)
    seen = []
    few = digits.generate(["3", "7", "1"], steps=4, steer="best_of_n:budget=3", reward="ink", batch=6,
                          progress=lambda *a: seen.append(a))  # fmt: skip
    assert seen[-1] == (8, 8)  # batches of two samples, of three particles each
    assert torch.allclose(few.x, text.x, atol=1e-5) and few.record.facts["nfe"] == text.record.facts["nfe"] == 12
    assert few.record.facts["best_of_n"]["chosen"] == text.record.facts["best_of_n"]["chosen"]
    inks = text.record.facts["best_of_n"]["rewards"]
    assert text.record.facts["steer"]["rewards"] == pytest.approx([max(r) for r in inks], abs=1e-4)
    plain = digits.generate(["3", "7", "1"], steps=4)
    ink = rewards.reward("ink", digits)
    assert [r[0] for r in inks] == pytest.approx(ink(plain.x, None).tolist(), abs=1e-4) and plain.record.facts["nfe"] == 4


def test_network_calls_count_every_branch_and_model(digits):
    assert facts(digits, guidance="cfg:scale=2")["nfe"] == 8
    assert facts(digits, guidance="autoguidance:scale=2,bad='digits-unet'")["nfe"] == 8
    assert facts(digits, guidance="cfg:scale=2", steer="w2sd")["nfe"] == 2 * (4 + 3) + 3
    other = load("digits-unet").denoiser.backbone
    assert facts(digits, guidance=[_Swapped(other)])["nfe"] == 4
    swapped = digits.generate("3", steps=4, guidance=[_Swapped(other)])
    assert torch.equal(swapped.x, load("digits-unet").generate("3", steps=4).x)


def test_w2sd_reflects_on_the_model_without_its_guidance(digits):
    text = digits.generate(["3"], steps=4, guidance="cfg:scale=2", steer="w2sd")
    part = digits.generate(["3"], steps=4, guidance="cfg:scale=2", steer=W2SD(digits.denoiser))
    other = digits.generate(["3"], steps=4, guidance="cfg:scale=2", steer="w2sd:weak='digits-unet'")
    assert torch.equal(text.x, part.x) and not torch.equal(text.x, other.x)


@pytest.mark.parametrize("wanted, words", [
    (dict(steer="best_of_m"), "Did you mean 'best_of_n'"), (dict(steer="fk:budget=2", reward="clas"), "Did you mean 'class'"),
    (dict(reward="class"), "nothing that is steered"), (dict(steer="hallucination:budget=2", reward="class"), "by no reward"),
    (dict(steer="w2sd"), "w2sd:weak='digits-unet'"), (dict(steer="fk:budget=0"), "at least 1"),
    (dict(steer=["fk:budget=2,reward=ink", "svdd:budget=2"]), "two rewards"), (dict(steer="fk:bugdet=2"), "Did you mean 'budget'"),
    (dict(steer="fk:budget=2", reward="agreement"), "Name another reward"),
])  # fmt: skip
def test_mistakes_of_steering_are_told(wanted, words, digits):
    with pytest.raises(OrnsteinError, match=words):
        facts(digits, **wanted)


# ---- rewards


def test_the_class_reward_is_the_log_chance_of_the_label(digits):
    x, label = torch.randn(5, 1, 8, 8).clamp(-1, 1), torch.tensor([3, 9, 0, 10, 3])
    x[4] = torch.nan
    found = rewards.reward("class", digits)(x, {"label": label})
    want = classifier()(x).log_softmax(1)
    assert torch.allclose(found[:3], want[torch.arange(3), label[:3]]) and found[3:].isnan().all()


def test_rewards_look_at_the_decoded_picture_over_white(digits):
    codec = SimpleNamespace(decode=lambda x: x / 2)
    model = replace(digits, codec=codec)
    x = torch.full((2, 1, 8, 8), -2.0)
    x[1, :, 2:4, 2:4] = 2.0
    assert rewards.reward("brightness", model)(x, None).tolist() == pytest.approx([0.0, 4 / 64])
    assert rewards.reward("ink", model)(x, None).tolist() == pytest.approx([0.0, 4 / 64])
    y = torch.randn(2, 1, 8, 8)
    cond = {"label": torch.tensor([1, 2])}
    assert torch.equal(rewards.reward("class", model)(2 * y, cond), rewards.reward("class", digits)(y, cond))
    clear = torch.full((1, 4, 8, 8), -1.0)  # black, fully transparent
    half = clear.clone()
    half[:, 3, :, :4] = 1.0
    both = torch.cat([clear, half, half * torch.nan])
    assert rewards.reward("brightness", model)(2 * both, None)[:2].tolist() == pytest.approx([1.0, 0.5])
    assert rewards.reward("ink", model)(2 * both, None)[:2].tolist() == pytest.approx([0.0, 0.5])
    assert all(rewards.reward(name, model)(2 * both, None)[2].isnan() for name in ("brightness", "ink"))


def test_agreement_of_emoji_prefers_the_right_captions():
    from ornstein.data.emoji import Emoji

    emoji, data = load("emoji"), Emoji.subset("all")
    try:
        score, cond = rewards.reward("agreement", emoji), emoji.encode(data.captions[::25])
    except OrnsteinError as error:
        assert "pip install" in str(error)
        pytest.skip(str(error))
    assert rewards.usual_reward(emoji) == "agreement"
    x = torch.nn.functional.interpolate(data.images()[::25], size=32, mode="bilinear")
    both = torch.cat([x, x * torch.nan])
    n = len(x)
    found = score(both, {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in cond.items()})
    wrong = score(x, {k: v.roll(1, 0) for k, v in cond.items()})
    assert found[:n].mean() > wrong.mean() + 0.2 and found[n:].isnan().all()
    alike = rewards.guide_of("blackscholes", emoji)(both, {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in cond.items()})
    assert torch.allclose(alike[:n], 50 + 50 * found[:n]) and (alike[n:] == 0).all()
    measured = catalog.build("metrics", "agreement")(flatten(emoji, x), cond["pooled"])
    assert float(found[:n].mean()) == pytest.approx(measured.value, abs=1e-6)


def test_a_model_without_a_reward_says_so(digits):
    strange = replace(digits, shape=(1, 16, 16))
    with pytest.raises(OrnsteinError, match="reward='brightness'"):
        rewards.usual_reward(strange)
    with pytest.raises(OrnsteinError, match="From Python give classifier=, a function of clean samples"):
        resolve.guidance("classifier:strength=2", strange)


# ---- guidance and negative prompts


@pytest.mark.parametrize("name", [e.name for e in catalog.entries("guidance")])
def test_every_guidance_runs_from_its_text_on_digits_or_says_what_to_give(name, digits):
    known = {f.name for f in fields(catalog.load("guidance", name))}
    strong = next((f"{k}={0.6 if name == 'cfgpp' else 2}" for k in ("scale", "strength") if k in known), "")
    spec = SPECS.get(name) or f"{name}:{strong}".rstrip(":")
    plain = digits.generate(["3", "7"], steps=3)
    try:
        done = digits.generate(["3", "7"], steps=3, guidance=spec)
    except OrnsteinError as error:
        assert name in LEARNED and error.remedy
        return
    assert bool(done.x.isfinite().all()) and done.plan.guidance == (spec,)
    assert name in LEARNED or not torch.equal(done.x, plain.x)


@pytest.mark.parametrize("spec", ["classifier:strength=4", "loss:strength=4", "loss:strength=4,through=x0"])
def test_named_guides_raise_the_chance_of_the_label(spec, digits):
    asked, judge = [str(k) for k in range(10)], rewards.reward("class", digits)
    cond = digits.encode(asked)
    plain, led = (judge(digits.generate(asked, steps=6, guidance=g).x, cond).mean() for g in ((), spec))
    assert led > plain + 0.02


@pytest.mark.parametrize("spec, words", [
    ("minority:strength=2", "Minority\\(predictor, strength\\)"), ("autoguidance:scale=2", "bad='digits-unet'"),
    ("invariant:learned='no-such-file'", "no file of"), ("autoguidance:scale=2,bad=emoji", "Name a model of the same data"),
    ("compose:others=('eleven',)", "eleven"), ("cfg:scale=2,negative='eleven'", "eleven"), ("cfgg:scale=2", "Did you mean 'cfg'"),
])  # fmt: skip
def test_what_a_text_cannot_give_is_told(spec, words, digits):
    with pytest.raises(OrnsteinError, match=words):
        digits.generate("3", steps=2, guidance=spec)


def test_the_benchmark_names_every_guidance_or_says_why_not():
    every = everyone()
    for entry in catalog.entries("guidance"):
        mine = [c for c in every if entry.name in {catalog.parse(g)[0] for g in (*(c.digits or ()), *(c.emoji or ()))}]
        mine += [c for c in every if c.name == entry.name]
        assert mine and all(c.digits is not None and c.emoji is not None or c.why_not for c in mine), entry.name


def test_a_negative_prompt_is_a_condition_of_the_guidance_and_of_the_plan(digits):
    done = digits.generate(["3", "7"], steps=3, guidance="cfg:scale=2", negative="8")
    assert done.plan.guidance == ("cfg:scale=2,negative='8'",)
    built = resolve.guidance(done.plan.guidance[0], digits)
    assert isinstance(built, CFG) and built.negative["label"].tolist() == [8]
    again = digits.generate(["3", "7"], plan=done.plan)
    object_ = digits.generate(["3", "7"], steps=3, guidance=[CFG(2, negative=digits.encode([8]))])
    assert torch.equal(done.x, again.x) and torch.equal(done.x, object_.x)
    assert not torch.equal(done.x, digits.generate(["3", "7"], steps=3, guidance="cfg:scale=2").x)
    quoted = resolve.negated(("cfg", "thresholding:bound=1"), "it's \"so\", (a)")
    assert catalog.parse(quoted[0]) == ("cfg", {"negative": "it's \"so\", (a)"}) and quoted[1] == "thresholding:bound=1"


@pytest.mark.parametrize("wanted, words", [
    (dict(negative="8"), "there is no guidance"), (dict(negative="8", guidance="apg:scale=2"), "apg:scale=2 has no negative"),
    (dict(negative=" ", guidance="cfg:scale=2"), "empty negative"),
    (dict(negative="8", guidance="cfg:scale=2,negative='7'"), "negative prompt already"),
])  # fmt: skip
def test_a_negative_prompt_that_would_do_nothing_is_refused(wanted, words, digits):
    with pytest.raises(OrnsteinError, match=words):
        digits.generate("3", steps=2, **wanted)


# ---- the command line


def test_the_command_steers_and_reports(ornstein, weights, tmp_path):
    ran = ornstein("generate", "3", "7", "--model", weights["dit"], "--guidance", 2, "--negative", "8", "--out", "a",
                   "--steer", "fk:budget=2,potential=difference", "--reward", "brightness")  # fmt: skip
    assert ran.code == 0, ran.err
    said = json.loads((tmp_path / "a/record.json").read_text())
    assert said["plan"]["guidance"] == ["cfg:scale=2.0,negative='8'"] and len(said["facts"]["fk"]["ess"]) == 2
    assert said["facts"]["steer"]["reward"] == "brightness" and said["facts"]["nfe"] == 3 * 2 * 2
    line = next(x for x in ran.out.splitlines() if x.startswith("steered"))
    assert "12 network calls a picture" in line and "reward brightness" in line and "effective sample size" in line


@pytest.mark.parametrize("words, told", [
    (["--steer", "fq:budget=2"], "Did you mean 'fk'"), (["--steer", "fk:budget=2", "--reward", "beauty"], "reward"),
    (["--steer", "boundary"], "steering.boundary.fit"), (["--negative", "8"], "there is no guidance"),
])  # fmt: skip
def test_the_command_refuses(words, told, ornstein, weights, tmp_path):
    ran = ornstein("generate", "3", "--model", weights["dit"], *words, "--out", "a")
    assert ran.code != 0 and told in ran.err and "Traceback" not in ran.err and not (tmp_path / "a").exists()

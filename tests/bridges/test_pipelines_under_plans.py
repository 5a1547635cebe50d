"""Pipelines of diffusers as what plans are run on: generate, bench, tune, and their folders on the command line."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from typer.testing import CliRunner  # noqa: E402
from zoo import fox_folder, specimen  # noqa: E402

import ornstein  # noqa: E402
from ornstein import bench, cost, tune  # noqa: E402
from ornstein.bridges.diffusers import OrnsteinScheduler  # noqa: E402
from ornstein.bridges.layers.caches import task  # noqa: E402
from ornstein.bridges.layers.drawing import Decoder  # noqa: E402
from ornstein.cli import app  # noqa: E402
from ornstein.core.errors import OrnsteinError  # noqa: E402
from ornstein.quality import Trial, reference_of  # noqa: E402


def betas():
    return diffusers.DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear")


@pytest.fixture(scope="module")
def dit():
    """A class-conditional pipeline whose network changes slowly with time; its null class is number 1000."""
    net = copy.deepcopy(task(layers=4, width=32, size=8).net)
    for block in net.transformer_blocks:
        table = torch.randn(1001, 32, generator=torch.Generator().manual_seed(0)) * 0.08
        block.norm1.emb.class_embedder.embedding_table = torch.nn.Embedding.from_pretrained(table)
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    pipe = diffusers.DiTPipeline(net, vae.eval(), betas())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fox_folder(tmp_path_factory.mktemp("pipelines") / "tiny-fox")


@pytest.fixture
def stable(folder):
    side = 8 * ornstein.load(folder).pipe.vae_scale_factor
    return ornstein.load(folder).asking(height=side, width=side, guidance_scale=3.0)


@pytest.fixture
def flux(monkeypatch):
    """With texts that are random vectors, others for what it is to keep away from."""
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1, latent_channels=1, shift_factor=0.1).eval()
    pipe = diffusers.FluxPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0), vae, None, None, None, None,
                                  specimen("FluxTransformer2DModel")[0].eval())  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def encoded(self, prompt, **_):
        chance = torch.Generator().manual_seed(len(prompt[0]))
        texts = torch.randn(1, 5, 12, generator=chance), torch.randn(1, 10, generator=chance)
        return texts[0].repeat(len(prompt), 1, 1), texts[1].repeat(len(prompt), 1), torch.zeros(5, 3)

    monkeypatch.setattr(type(pipe), "encode_prompt", encoded)
    return ornstein.load(pipe)


@pytest.fixture(autouse=True)
def no_profiles(tmp_path, monkeypatch):
    for function in (cost.predict, cost.profile):
        monkeypatch.setitem(function.__kwdefaults__, "cache", tmp_path / "profiles")


def pictured(pipe, classes, steps, seeds):
    made = pipe(classes, generator=[torch.Generator().manual_seed(s) for s in seeds], num_inference_steps=steps, output_type="np")
    return (made.images.clip(0, 1) * 255).round().astype(np.uint8)


def apart(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---- one run


def test_its_own_scheduler_draws_what_the_pipeline_draws(dit):
    from ornstein.bridges.diffusers import _seeds

    model, before = ornstein.load(dit), dit.scheduler
    before.set_timesteps(17)
    made = model.generate(["3", "5"], model.shipped(), steps=6, seed=4)
    assert dit.scheduler is before and len(before.timesteps) == 17  # as it was
    assert np.abs(made.images.astype(int) - pictured(dit, [3, 5], 6, _seeds(4, (0, 1)))).max() <= 1
    assert made.record.calls["evaluations"] == 6 and made.plan.solver == "own"


def test_a_picture_depends_on_its_seed_and_number_alone(dit):
    model = ornstein.load(dit)
    whole, halves = (model.generate(["1", "2", "3"], steps=5, seed=1, batch=n).x for n in (3, 2))
    other = model.generate(["1", "2", "3"], steps=5, seed=2).x
    assert apart(whole, halves) < 1e-5 < apart(other, whole)


def test_solvers_and_grids_of_ornstein_go_to_the_same_end(dit):
    model = ornstein.load(dit)
    truth = model.generate(["1"], model.shipped(), steps=1000).x
    for solver, grid, bound in (("deis:points=2", "beta", 0.03), ("dpmpp2m", "logsnr", 0.03), ("ddim", "own", 0.1)):
        many, few = (model.generate(["1"], steps=n, solver=solver, grid=grid).x for n in (100, 10))
        assert 5 * apart(many, truth) < apart(few, truth) and apart(many, truth) < bound
    assert apart(model.generate(["1"], steps=10).x, truth) < apart(model.generate(["1"], model.shipped(), steps=10).x, truth)


def test_a_grid_says_whole_timesteps_where_there_is_room(dit):
    scheduler = OrnsteinScheduler.from_scheduler(dit.scheduler, "ddim", "beta")
    scheduler.set_timesteps(12)
    told = scheduler.timesteps.tolist()
    assert len(told) == 12 and told == sorted(told, reverse=True) and all(t == int(t) for t in told) and told[0] == 999
    assert torch.allclose(scheduler.sigmas[:-1] * 1000 - 1, scheduler.timesteps.double()) and scheduler.sigmas[-1] == 0
    scheduler.set_timesteps(800)
    told = scheduler.timesteps.tolist()
    assert len(set(told)) == len(told) > 600 and len(scheduler.sigmas) == len(told) + 1
    flow = OrnsteinScheduler.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "ddim", "uniform")
    flow.set_timesteps(4)
    assert flow.timesteps.tolist() == [1000, 750, 500, 250] and copy.deepcopy(flow).grid == "uniform"


def test_plugins_save_and_leave_nothing_behind(dit):
    model = ornstein.load(dit)
    plain = model.generate(["1"], steps=9)
    fast = model.generate(["1"], steps=9, accelerate="taylorseer:interval=3")
    assert fast.record.skipped() > 0.4 and 1e-6 < apart(fast.x, plain.x) < 0.1
    assert torch.equal(model.generate(["1"], steps=9).x, plain.x) and not hasattr(type(dit), "_ornstein")


def test_compressed_and_in_bfloat16(dit):
    model = ornstein.load(dit)
    plain, weights = model.generate(["1"], steps=4).x, dit.transformer.transformer_blocks[0].attn1.to_q.weight
    for plan in (model.plan(steps=4, compress=("int8",)), model.plan(steps=4, dtype="bfloat16")):
        assert 1e-5 < apart(model.generate(["1"], plan).x, plain) < 0.2
    assert dit.transformer.transformer_blocks[0].attn1.to_q.weight is weights


def test_its_own_decoder_makes_the_pipelines_pictures(dit, stable):
    for model, prompt in ((ornstein.load(dit), "7"), (stable, "a red fox")):
        made = model.generate([prompt], steps=3)
        assert np.abs(model.pictures(made.x).astype(int) - made.images.astype(int)).max() <= 1
        assert made.x.shape[1:] == model.shape


def test_texts_are_asked_as_texts(stable):
    fox, owl = stable.generate(["a red fox", "a blue owl"], steps=4).x
    assert not torch.allclose(fox, owl) and stable.name == "tiny-fox"
    strong = stable.asking(**{**stable.call, "guidance_scale": 9.0}).generate(["a red fox"], steps=4).x[0]
    assert not torch.allclose(fox, strong)
    away = stable.asking(**stable.call, negative_prompt="blue").generate(["a red fox", "a blue owl"], steps=4).x[0]
    assert not torch.allclose(fox, away)


def test_packed_latents(flux):
    model = flux.asking(height=16, width=16)
    made = model.generate(["a fox", "an owl"], steps=4)
    assert made.x.ndim == 3 and model.shape == made.x.shape[1:] and made.images.shape[1:3] == (16, 16)
    assert np.abs(model.pictures(made.x).astype(int) - made.images.astype(int)).max() <= 1
    assert apart(model.generate(["a fox"], steps=200).x, model.generate(["a fox"], model.shipped(), steps=400).x) < 0.02


def test_without_conditions_and_without_latents():
    pipe = diffusers.DDPMPipeline(specimen("UNet2DModel")[0].eval(), betas())
    pipe.set_progress_bar_config(disable=True)
    model = ornstein.load(pipe)
    made = model.generate(["", ""], steps=3)
    assert model.encoder is None and made.images.shape[0] == 2
    assert model.shipped().steps == 1000 and reference_of(model).steps == 100
    assert np.abs(model.pictures(made.x).astype(int) - made.images.astype(int)).max() <= 1


# ---- its own guidance in an interval


def test_guidance_in_an_interval_computes_one_branch_outside(dit, stable):
    """Of one batch with both halves, the conditional one first or last: nowhere is no guidance, everywhere the whole."""
    for model, prompts, key in ((ornstein.load(dit), ["1", "7"], {}), (stable, ["a red fox", "a blue owl"], stable.call)):
        assert model.plan().guidance == ("own",)
        whole, same = (model.generate(prompts, steps=6, guidance=g) for g in ("own", "own:interval=(0,1)"))
        assert torch.equal(whole.x, same.x)
        nowhere = model.generate(prompts, steps=6, guidance="own:interval=(0,0.0001)")
        plain = model.asking(**{**key, "guidance_scale": 1.0}).generate(prompts, steps=6, solver="deis:points=2", grid="beta")
        assert apart(nowhere.x, plain.x) < 1e-5 < 1e-3 < apart(whole.x, plain.x)
        half = model.generate(prompts, steps=6, guidance="own:interval=(0.3,0.8)")
        assert 1e-3 < apart(half.x, whole.x) and 1e-4 < apart(half.x, plain.x)
        one = model.generate(prompts, steps=6, guidance="own:interval=(0.3,0.8)", batch=1)
        assert apart(one.x, half.x) < 1e-5


def test_guidance_in_an_interval_saves_its_share(dit):
    model = ornstein.load(dit)
    assert model.shape == (4, 8, 8)  # seen before anything is counted
    whole, less = (cost.flops(lambda g=g: model.generate(["1"], steps=10, guidance=g)) for g in ("own", "own:interval=(0.2,0.8)"))
    assert 0.5 < less / whole < 0.9
    halves = "own:interval=(0.5,1)", "own:interval=(0,0.5)"
    early, late = (cost.flops(lambda g=g: model.generate(["1"], steps=10, guidance=g)) for g in halves)
    assert early + late == pytest.approx(1.5 * whole, rel=0.03)  # each step is in one of the two
    assert "own:interval=(0.5,1)" in model.use(model.plan(guidance=("own:interval=(0.5,1)",)))["guidance"]
    made = model.generate(["1"], steps=10, guidance="own:interval=(0.2,0.8)", accelerate="taylorseer:interval=3")
    assert made.record.skipped() > 0.3 and made.x.isfinite().all()


def test_a_second_call_outside_of_the_interval_is_not_made(flux):
    """Flux asks the unconditional branch afterwards, with its own text."""
    model = flux.asking(height=16, width=16, true_cfg_scale=3.0, negative_prompt="blue")
    calls, tokens = [0], model.shape[0]
    hook = model.pipe.transformer.x_embedder.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    try:
        found = {}
        for interval in ("(0,1)", "(0,0.0001)", "(0.4,0.9)"):
            calls[0] = 0
            found[interval] = model.generate(["a fox"], steps=5, guidance=f"own:interval={interval}").x, calls[0]
    finally:
        hook.remove()
    assert tokens == 64 and [n for _, n in found.values()][:2] == [10, 5] and 5 < found["(0.4,0.9)"][1] < 10
    plain = flux.asking(height=16, width=16).generate(["a fox"], steps=5, solver="deis:points=2", grid="beta").x
    assert apart(found["(0,0.0001)"][0], plain) < 1e-5 < apart(found["(0,1)"][0], plain)


# ---- what is refused


def test_what_a_pipeline_cannot_do_is_said(dit, stable, tmp_path):
    model = ornstein.load(dit)
    with pytest.raises(OrnsteinError, match="'fox' is no number of a class"):
        model.generate(["fox"], steps=2)
    with pytest.raises(OrnsteinError, match="Did you mean 'guidance_scale'"):
        model.asking(guidance_scal=3)
    with pytest.raises(OrnsteinError, match="generator is what a plan or the prompts say"):
        model.asking(generator=None)
    with pytest.raises(OrnsteinError, match="a pipeline guides by itself"):
        model.generate(["1"], model.plan(guidance=("cfg:scale=2",)))
    with pytest.raises(OrnsteinError, match="Did you mean 'interval'"):
        model.generate(["1"], guidance="own:intervall=(0,1)")
    with pytest.raises(OrnsteinError, match="not a rising pair"):
        model.generate(["1"], guidance="own:interval=(1,0)")
    with pytest.raises(OrnsteinError, match="has no guidance to limit"):
        model.asking(guidance_scale=1.0).generate(["1"], guidance="own:interval=(0.1,0.9)")
    with pytest.raises(OrnsteinError, match="negative: a pipeline of diffusers has its own"):
        model.generate(["1"], negative="blue")
    with pytest.raises(OrnsteinError, match="more than once in a step"):
        model.generate(["1"], solver="heun")
    with pytest.raises(OrnsteinError, match="nobody said what to ask 'tiny-fox' for"):
        Trial(stable)
    with pytest.raises(OrnsteinError, match="cannot be read"):
        (tmp_path / "model_index.json").write_text("{")
        ornstein.load(tmp_path)
    with pytest.raises(OrnsteinError, match="no prompt"):
        model.generate([])
    with pytest.raises(OrnsteinError, match="batch=0"):
        model.generate(["1"], batch=0)


def test_a_plan_of_another_guidance_is_refused(dit):
    model = ornstein.load(dit)
    plan = model.plan(steps=3)
    promised = ornstein.Plan(**{**vars(plan), "figures": {"loss": 0.1}, "made_for": model.use(plan)})
    assert len(model.generate(["1"], promised).x) == 1
    other = model.asking(guidance_scale=1.5)
    with pytest.raises(OrnsteinError, match="figures are for guidance"):
        other.generate(["1"], promised)
    forced = other.generate(["1"], promised, force=True)
    assert "guidance" in forced.record.facts["forced"][0] and not forced.plan.figures


# ---- measured


def test_what_a_plan_costs(dit):
    model = ornstein.load(dit)
    whole, fast = (cost.predict(model, model.plan(steps=8, accelerate=a), 2, ["1"]) for a in ((), ("taylorseer:interval=2",)))
    profile = cost.profile(model, 2, ["1"])
    assert whole.calls == 8 and whole.flops == 8 * profile.network[1] > fast.flops > 0.4 * whole.flops
    assert profile.network[0] > 0 and any(key.endswith("/block") for key in profile.sites)
    half = cost.predict(model, model.plan(steps=8, compress=("int8",)), 2, ["1"])
    assert half.bytes < whole.bytes


def test_bench_has_the_pipeline_as_it_is_beside_it(dit, tmp_path):
    model = ornstein.load(dit)
    found = bench.bench(model, {"ten": model.plan(steps=10)}, bench.Settings(("latent", "rms"), 4, 1, 2), prompts=["1", "2"],
                        reference=model.plan(steps=30), out=tmp_path)  # fmt: skip
    lines = {x.name: x for x in found.lines}
    assert lines["as shipped"].plan["solver"] == "own" and "deis:points=2, 50 steps" in lines
    assert not any(x.refused for x in found.lines) and lines["ten"].losses["rms"][0] < 0.1
    assert (tmp_path / "bench.html").stat().st_size > 10_000 and reference_of(model).steps == 60
    assert bench.read_plan(model, "solver=own grid=own steps=5").solver == "own"
    with pytest.raises(OrnsteinError, match="own"):
        bench.read_plan(ornstein.load("digits"), "solver=own")


def test_tune_finds_and_promises(dit, tmp_path):
    model = ornstein.load(dit)
    made = tune.tune(model, tune.Goal("latent", 0.2), 6, prompts=["1", "2", "3"], reference=model.plan(steps=30), batch=8,
                     out=tmp_path)  # fmt: skip
    assert made.plan is not None and made.plan.figures["times_faster"] > 1.2 and made.plan.figures["high"] <= 0.2
    kept = Trial(model, ["1", "2", "3"], model.plan(steps=30), 8)
    assert kept.loss("latent", kept.draw(made.plan, 777, 24)[0], 777).mean <= 0.2
    assert "DiTPipeline" in ornstein.Plan.load(tmp_path / "plan.json").made_for["guidance"]


# ---- the command line


def test_a_folder_on_the_command_line(folder, stable, tmp_path):
    side, call = str(stable.call["height"]), ["--call", "guidance_scale=3.0"]
    words = ["--model", str(folder), "--call", f"height={side}", "--call", f"width={side}", *call]
    done = CliRunner().invoke(app, ["generate", "a red fox", *words, "--steps", "3", "--seed", "5", "--solver", "own",
                                    "--grid", "own", "--guidance", "own:interval=(0.1,0.9)",
                                    "--save-plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "one")])  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "one" / "record.json").read_text())
    assert record["plan"]["steps"] == 3 and record["plan"]["model"] == "tiny-fox"
    shown = CliRunner().invoke(app, ["explain", str(tmp_path / "plan.json")])
    assert shown.exit_code == 0 and "guidance: own:interval=(0.1,0.9): the pipeline's own" in shown.output, shown.output
    bad = CliRunner().invoke(app, ["generate", "a fox", "--model", "digits", "--call", "height=8", "--out", str(tmp_path / "two")])
    assert bad.exit_code != 0 and "is for pipelines" in str(bad.exception) + bad.output
    torn = CliRunner().invoke(app, ["generate", "a fox", "--model", str(folder), "--call", "height", "--out", str(tmp_path / "x")])
    assert torn.exit_code != 0 and "not KEY=VALUE" in str(torn.exception) + torn.output
    (tmp_path / "prompts.txt").write_text("a red fox\na blue owl\n")
    done = CliRunner().invoke(app, ["bench", str(folder), "steps=4", *words[2:], "--prompts-file", str(tmp_path / "prompts.txt"),
                                    "--count", "2", "--rounds", "1", "--batch", "2", "--out", str(tmp_path / "bench")])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "as shipped" in done.output and (tmp_path / "bench" / "bench.json").is_file()


def test_latents_as_the_autoencoder_wants_them():
    """Scaled, shifted, or standardised channel by channel; with an autoencoder that hands on what it is given."""

    class Plain(torch.nn.Linear):
        def decode(self, z, return_dict):
            return (z,)

    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    vae = Plain(1, 1)
    decode = Decoder(type("Pipe", (), {"vae": vae})(), {}).decode
    vae.config = {"scaling_factor": 0.5, "shift_factor": 0.3}
    assert torch.allclose(decode(x), x / 0.5 + 0.3)
    vae.config = {"scaling_factor": 0.5, "latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]}
    mean, spread = (torch.tensor(vae.config[f"latents_{k}"])[:, None, None] for k in ("mean", "std"))
    assert torch.allclose(decode(x), x / 0.5 * spread + mean)
    with pytest.raises(OrnsteinError, match="are no pictures"):
        decode(x[:, :, None])

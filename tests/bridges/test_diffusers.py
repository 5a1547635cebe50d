"""Pipelines of diffusers with our solvers and plugins, on networks with random weights."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from zoo import BATCH, ZOO, call, specimen  # noqa: E402

import ornstein  # noqa: E402
from ornstein.bridges import diffusers as bridge  # noqa: E402
from ornstein.core import catalog  # noqa: E402
from ornstein.core.clock import Clock  # noqa: E402
from ornstein.core.effects import Effects  # noqa: E402
from ornstein.core.errors import OrnsteinError  # noqa: E402
from ornstein.core.loop import sample  # noqa: E402
from ornstein.core.seam import Run, attach, running  # noqa: E402

FLOWS = ("SD3", "Flux", "Qwen", "Wan", "Sana")


class Watches:
    """Computes; remembers every clock."""

    effects = Effects.of()
    grain = "network"

    def __init__(self):
        self.clocks = []

    def select(self, sites):
        return [s for s in sites if s.grain == self.grain]

    def start(self):
        return {}

    def around(self, site, clock, streams, run, memory):
        self.clocks.append(clock)
        return run(streams)


class Alternates(Watches):
    """Every second step hands back what the step before computed."""

    def around(self, site, clock, streams, run, memory):
        self.clocks.append(clock)
        if clock.step % 2 == 0 or site.name not in memory:
            memory[site.name] = run(streams)
        return memory[site.name]


class Keeps(Watches):
    """Hands out the first step's answer for ever."""

    def around(self, site, clock, streams, run, memory):
        if site.name not in memory:
            memory[site.name] = run(streams)
        return memory[site.name]


class Breaks(Watches):
    """Computes until the third step, then fails."""

    def around(self, site, clock, streams, run, memory):
        if clock.step == 2:
            raise RuntimeError("the lights went out")
        return run(streams)


@pytest.fixture
def betas():
    return diffusers.DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear")


@pytest.fixture
def flow():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)


@pytest.fixture
def ddpm(betas):
    pipe = diffusers.DDPMPipeline(specimen("UNet2DModel")[0], betas)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def dit(betas):
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    pipe = diffusers.DiTPipeline(specimen("DiTTransformer2DModel")[0], vae, betas)
    pipe.set_progress_bar_config(disable=True)
    net = pipe.transformer
    embedders = [b.norm1.emb.class_embedder for b in net.transformer_blocks]
    before = [e.embedding_table for e in embedders]
    for e in embedders:  # the pipeline's null class is number 1000, whatever the network
        e.embedding_table = torch.nn.Embedding.from_pretrained(
            torch.randn(1001, 16, generator=torch.manual_seed(0)) * 0.2
        )
    yield pipe
    for e, table in zip(embedders, before):
        e.embedding_table = table


@pytest.fixture
def flux(flow):
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1, latent_channels=1)
    pipe = diffusers.FluxPipeline(flow, vae, None, None, None, None, specimen("FluxTransformer2DModel")[0])
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def stable(betas):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=20, hidden_size=12, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, max_position_embeddings=8)).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    pipe = diffusers.StableDiffusionPipeline(vae, text, None, specimen("UNet2DConditionModel")[0], betas, None, None,
                                             requires_safety_checker=False)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unconditional(pipe, steps=6, seed=0, batch=2):
    return torch.as_tensor(pipe(batch, torch.Generator().manual_seed(seed), steps, output_type="np").images)


def classes(pipe, steps=6, seed=0, scale=4.0):
    out = pipe([1, 3], scale, torch.Generator().manual_seed(seed), steps, output_type="np")
    return torch.as_tensor(out.images)


def pictures(pipe, steps=6, seed=0, true=3.0):
    g = torch.Generator().manual_seed(3)
    texts = {k: torch.randn(s, generator=g) for k, s in (("prompt_embeds", (2, 5, 12)), ("pooled_prompt_embeds", (2, 10)),
             ("negative_prompt_embeds", (2, 5, 12)), ("negative_pooled_prompt_embeds", (2, 10)))}  # fmt: skip
    return pipe(**texts, true_cfg_scale=true, height=16, width=16, num_inference_steps=steps, output_type="latent",
                generator=torch.Generator().manual_seed(seed)).images  # fmt: skip


def prompted(pipe, steps=6, seed=0, scale=5.0):
    tokens = torch.tensor([[1, 4, 7, 2, 0]]), torch.tensor([[1, 2, 0, 0, 0]])
    with torch.no_grad():
        cond, null = (pipe.text_encoder(t)[0] for t in tokens)
    return pipe(prompt_embeds=cond, negative_prompt_embeds=null, guidance_scale=scale, height=8 * pipe.vae_scale_factor,
                width=8 * pipe.vae_scale_factor, num_inference_steps=steps, output_type="latent",
                generator=torch.Generator().manual_seed(seed)).images  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- processes


def test_the_process_goes_through_the_schedule(betas):
    process = bridge.SchedulerProcess.of(betas.alphas_cumprod)
    k = torch.arange(1000)
    a, s, da, ds = process.coefficients((k + 1).double() / 1000)
    assert torch.allclose(a**2, betas.alphas_cumprod.double(), atol=1e-7) and torch.allclose(
        a**2 + s**2, torch.ones(1000).double()
    )
    assert process.coefficients(torch.zeros(1))[0] == 1 and process.coefficients(torch.zeros(1))[1] == 0
    t = torch.tensor([0.00005, 0.12345, 0.5005, 0.99995], dtype=torch.float64)
    a, s, da, ds = process.coefficients(t)
    up, down = process.coefficients(t + 1e-7), process.coefficients(t - 1e-7)
    assert torch.allclose(da, (up[0] - down[0]) / 2e-7, atol=1e-5) and torch.allclose(
        ds, (up[1] - down[1]) / 2e-7, atol=1e-5
    )
    assert torch.allclose(process.time(2 * (a.log() - s.log())), t, atol=1e-9)
    logsnr = 2 * (a.log() - s.log())
    assert bool((logsnr[1:] < logsnr[:-1]).all())


@pytest.mark.parametrize("said", ["epsilon", "v_prediction", "sample"])
def test_what_the_network_predicts_is_read_right(said):
    scheduler = diffusers.DDPMScheduler(prediction_type=said)
    x0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    k = torch.tensor([100, 700])
    x = scheduler.add_noise(x0, noise, k)
    truth = {"epsilon": noise, "v_prediction": scheduler.get_velocity(x0, noise, k), "sample": x0}[said]
    seen = []

    class Knows(torch.nn.Module):
        def forward(self, sample, timestep, return_dict=True):
            seen.append(timestep)
            return (torch.cat([truth, torch.full_like(truth, 9.0)], 1),)  # with a learned variance

    d = bridge.denoiser(Knows(), scheduler)
    prediction = d(x, (k + 1) / 1000)
    assert torch.allclose(prediction.x0, x0, atol=1e-4) and torch.equal(seen[0], k.float())


@pytest.mark.parametrize("name", ZOO)
def test_a_dry_run_equals_the_foreign_forward(name, betas, flow):
    net, inputs = specimen(name)
    known = dict(inputs)
    x, timestep = known.pop("sample" if ZOO[name].unet else "hidden_states"), known.pop("timestep")
    shared = {k: known.pop(k) for k in ("img_ids", "txt_ids", "img_shapes") if k in known}
    flows = any(w in name for w in FLOWS)
    unit = 1 if float(timestep[0]) < 1 else 1000
    t = timestep[0] / unit if flows else (timestep[0] + 1) / 1000
    d = bridge.denoiser(net, flow if flows else betas, shared=shared)
    with torch.no_grad():
        prediction = d(x, t, known, Clock(ids=(0, 1)))
    out = call(net, inputs)
    assert prediction.kind == ("velocity" if flows else "noise")
    assert torch.equal(prediction.value, out[:, :4] if name.startswith(("DiT", "PixArt")) else out)


def test_wrong_arguments_are_named(betas):
    net, inputs = specimen("DiTTransformer2DModel")
    with pytest.raises(
        OrnsteinError, match="unknown argument of DiTTransformer2DModel 'class_label'. Did you mean 'class_labels'"
    ):
        bridge.denoiser(net, betas)(inputs["hidden_states"], 0.5, {"class_label": torch.tensor([1, 3])})
    with pytest.raises(OrnsteinError, match="has neither betas nor a flow"):
        bridge.denoiser(net, diffusers.EDMEulerScheduler())
    with pytest.raises(OrnsteinError, match="is no pipeline"):
        ornstein.load(net)


def test_guidance_and_plugins_work_on_a_bridged_denoiser(betas):
    net, inputs = specimen("DiTTransformer2DModel")
    d = bridge.denoiser(net, betas, null={"class_labels": torch.tensor([10])})
    assert torch.equal(
        d.unconditional({"class_labels": torch.tensor([1, 3])}, 2)["class_labels"], torch.tensor([10, 10])
    )
    plugin, run = Watches(), Run()
    plain = sample(d, (2, 4, 8, 8), catalog.build("solvers", "ddim"), 3, cond={"class_labels": torch.tensor([1, 3])})
    detach = attach(net, plugin)
    seamed = sample(
        d, (2, 4, 8, 8), catalog.build("solvers", "ddim"), 3, cond={"class_labels": torch.tensor([1, 3])}, run=run
    )
    detach()
    assert torch.equal(plain, seamed) and [c.step for c in plugin.clocks] == [0, 1, 2]


# --------------------------------------------------------------------------------------------------------------- solvers


def test_ddim_in_a_pipeline_is_their_ddim(ddpm, dit, stable):
    for pipe, ask in ((ddpm, unconditional), (dit, classes), (stable, prompted)):
        theirs = ask(pipe)
        pipe.scheduler = bridge.OrnsteinScheduler.from_scheduler(pipe.scheduler, "ddim")
        ours = ask(pipe)
        assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=2e-4 * float(theirs.abs().max()))


def test_euler_in_a_flow_pipeline_is_their_euler(flux):
    theirs = pictures(flux)
    for solver in ("euler", "ddim"):
        flux.scheduler = bridge.OrnsteinScheduler.from_scheduler(flux.scheduler, solver)
        assert torch.allclose(pictures(flux), theirs, atol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "euler", "dpmpp2m"])
def test_the_pipeline_and_our_own_loop_agree(ddpm, solver):
    """Same grid, same start, same solver: the memory of a multistep solver survives between the pipeline's calls."""
    scheduler = ddpm.scheduler = bridge.OrnsteinScheduler.from_scheduler(ddpm.scheduler, solver)
    start = torch.randn((2, 3, 8, 8), generator=torch.manual_seed(5))
    scheduler.set_timesteps(7)
    x, generator = start, torch.Generator().manual_seed(11)
    for t in scheduler.timesteps:
        with torch.no_grad():
            x = scheduler.step(ddpm.unet(x, t).sample, t, x, generator=generator, return_dict=False)[0]
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(11)))
    own = sample(bridge.denoiser(ddpm.unet, scheduler), start, catalog.build("solvers", solver), seed=seed,
                 rule=scheduler.sigmas.tolist())  # fmt: skip
    assert torch.allclose(x, own, atol=1e-4 * float(own.abs().max()))
    assert len(scheduler.timesteps) == 7 == scheduler.num_inference_steps


def test_one_sample_in_a_batch_does_not_matter(ddpm):
    """One generator per sample: a picture is the same alone and in company, with fresh noise in every step."""
    ddpm.scheduler = bridge.OrnsteinScheduler.from_scheduler(ddpm.scheduler, "ddim:eta=1.0")
    scheduler, start = ddpm.scheduler, torch.randn(2, 3, 8, 8)

    def go(rows):
        generators = [torch.Generator().manual_seed(40 + r) for r in rows]
        scheduler.set_timesteps(4)
        x = start[list(rows)]
        for t in scheduler.timesteps:
            x = scheduler.step(x * 0.5, t, x, generator=generators).prev_sample
        return x

    assert not torch.allclose(go((0, 1))[0], go((0, 1))[1])
    for row in (0, 1):
        assert torch.allclose(go((0, 1))[row], go((row,))[0], atol=1e-6)


def test_a_solver_of_several_calls_is_refused(betas):
    with pytest.raises(OrnsteinError, match="more than once in a step") as error:
        bridge.OrnsteinScheduler.from_scheduler(betas, "heun")
    assert "dpmpp2m" in error.value.remedy and "own loop" in error.value.remedy


def test_the_scheduler_quacks(betas, flow):
    ours = bridge.OrnsteinScheduler.from_scheduler(betas)
    with pytest.raises(OrnsteinError, match="no timesteps on this thread"):
        ours.timesteps  # noqa: B018
    ours.set_timesteps(10)
    x = torch.randn(2, 3, 4, 4)
    assert ours.scale_model_input(x, 3) is x and ours.init_noise_sigma == 1.0 and ours.order == 1
    assert ours.config.prediction_type == "epsilon" and len(ours) == 1000
    k, noise = torch.tensor([10, 900]), torch.randn_like(x)
    assert torch.allclose(ours.add_noise(x, noise, k), betas.add_noise(x, noise, k), atol=1e-5)
    with pytest.raises(OrnsteinError, match="timestep 3 is not of this run"):
        ours.step(x, 3, x)
    with pytest.raises(OrnsteinError, match="unknown argument of DDIMScheduler.set_timesteps 'sigmas'"):
        ours.set_timesteps(sigmas=[1.0, 0.5])
    late = ours.timesteps[6:]  # a picture from a picture
    ours.set_begin_index(6)
    for t in late:
        x = ours.step(torch.zeros_like(x), t, x)[0]
    moving = bridge.OrnsteinScheduler.from_scheduler(flow, "euler")
    moving.set_timesteps(sigmas=[1.0, 0.5])
    assert moving.sigmas.tolist() == pytest.approx([1.0, 2 / 3, 0.0], abs=1e-4)  # their shift of 2
    again = bridge.OrnsteinScheduler.from_scheduler(moving, "ddim")  # from ours to ours
    assert again.wrapped is flow


def test_schedulers_of_second_order_give_each_time_once():
    for kind in (diffusers.HeunDiscreteScheduler, diffusers.PNDMScheduler, diffusers.EulerDiscreteScheduler):
        ours = bridge.OrnsteinScheduler.from_scheduler(kind(), "ddim")
        ours.set_timesteps(8)
        assert len(ours.timesteps) == 8 and bool((ours.sigmas[1:] < ours.sigmas[:-1]).all())


def test_threads_share_a_pipeline(ddpm):
    ddpm.scheduler = bridge.OrnsteinScheduler.from_scheduler(ddpm.scheduler, "dpmpp2m")
    orders = [(5, 0), (9, 1), (5, 2), (7, 3)]
    alone = [unconditional(ddpm, steps, seed) for steps, seed in orders]
    found, gate = [None] * len(orders), threading.Barrier(len(orders))

    def work(i):
        gate.wait()
        found[i] = unconditional(ddpm, *orders[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(orders))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, found))


# --------------------------------------------------------------------------------------------------------------- plugins


def clean(pipe, kind):
    nets = bridge.networks(pipe).values()
    return type(pipe) is kind and not any("forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks
                                          for n in nets for m in n.modules())  # fmt: skip


def test_a_neutral_plugin_in_a_pipeline_is_bit_exact(ddpm, dit, flux, stable):
    for pipe, ask in ((ddpm, unconditional), (dit, classes), (flux, pictures), (stable, prompted)):
        kind, plain, plugin = type(pipe), ask(pipe), Watches()
        handle = bridge.accelerate(pipe, plugin)
        assert type(pipe).__name__ == kind.__name__ and torch.equal(ask(pipe), plain)
        assert sorted({c.step for c in plugin.clocks}) == list(range(6)) and {c.steps for c in plugin.clocks} == {6}
        assert handle.record.steps == 6 and handle.record.seconds > 0
        handle()
        assert (
            clean(pipe, kind)
            and torch.equal(ask(pipe), plain)
            and len(plugin.clocks) == handle.record.calls["evaluations"]
        )


def test_branches_of_guidance_are_told_apart(dit, flux):
    plugin = Watches()
    with bridge.run(dit, plugin):
        classes(dit, steps=3)  # both branches as rows of one call
    assert [(c.step, c.branch, c.ids) for c in plugin.clocks] == [(k, "cond", (0, 1, 2, 3)) for k in range(3)]
    assert [round(float(c.t), 3) for c in plugin.clocks] == [0.667, 0.334, 0.001]
    plugin = Watches()
    with bridge.run(flux, plugin):
        pictures(flux, steps=3)  # two calls at one timestep
    assert [(c.step, c.branch) for c in plugin.clocks] == [(k, b) for k in range(3) for b in ("cond", "call1")]
    assert all(0 < float(c.t) <= 1 for c in plugin.clocks)


def test_a_cache_in_a_pipeline_keeps_the_branches_apart(flux):
    """Against the same cache written by hand around the network."""
    calls, store, plain = [], {}, flux.transformer.forward

    def by_hand(*args, **kwargs):
        number = len(calls)
        calls.append(1)
        step, branch = divmod(number, 2)
        if step % 2 == 0:
            store[branch] = plain(*args, **kwargs)
        return store[branch]

    flux.transformer.forward = by_hand
    expected = pictures(flux)
    del flux.transformer.forward
    plugin = Alternates()
    with bridge.run(flux, plugin) as record:
        found = pictures(flux)
    assert torch.equal(found, expected) and not torch.allclose(found, pictures(flux), atol=1e-3)
    assert record.skipped() == 0.5


def test_each_call_of_an_accelerated_pipeline_starts_afresh(ddpm):
    handle = bridge.accelerate(ddpm, Alternates())
    first, other = unconditional(ddpm, 5, 0), unconditional(ddpm, 5, 1)
    assert torch.equal(unconditional(ddpm, 5, 0), first) and not torch.allclose(first, other, atol=1e-3)
    handle()
    handle = bridge.accelerate(ddpm, [Breaks()])
    with pytest.raises(RuntimeError, match="lights"):
        unconditional(ddpm, 5, 1)
    handle()
    handle = bridge.accelerate(ddpm, Alternates())
    assert torch.equal(unconditional(ddpm, 5, 0), first)
    handle()
    with bridge.run(ddpm, Keeps()):
        first = unconditional(ddpm, 5, 0)
    with bridge.run(ddpm, Keeps()):  # a second call in one run begins a new trajectory
        unconditional(ddpm, 5, 1)
        assert torch.equal(unconditional(ddpm, 5, 0), first)


def test_an_error_leaves_nothing_behind(ddpm):
    kind, plain = type(ddpm), unconditional(ddpm)
    with pytest.raises(RuntimeError, match="lights"), bridge.run(ddpm, Breaks()):
        unconditional(ddpm)
    assert clean(ddpm, kind) and torch.equal(unconditional(ddpm), plain)
    probe = Watches()
    detach = attach(ddpm.unet, probe)
    with running(Run()):  # no clock was left standing
        unconditional(ddpm)
    detach()
    assert probe.clocks == []
    nothing = Watches()
    nothing.grain = "nowhere"
    with pytest.raises(OrnsteinError, match="would do nothing"):
        bridge.accelerate(ddpm, nothing)
    assert clean(ddpm, kind)


def test_accelerated_twice_is_refused_and_run_goes_inside(ddpm):
    outer, inner = Watches(), Watches()
    handle = bridge.accelerate(ddpm, outer)
    with pytest.raises(OrnsteinError, match="accelerated already"):
        bridge.accelerate(ddpm, inner)
    with bridge.run(ddpm, inner):
        unconditional(ddpm, 4)
    for plugin in (outer, inner):
        assert [(c.step, c.branch) for c in plugin.clocks] == [(k, "cond") for k in range(4)]
    handle()


def test_two_threads_run_one_pipeline_with_their_own_plugins(ddpm):
    ddpm.scheduler = bridge.OrnsteinScheduler.from_scheduler(ddpm.scheduler, "ddim")
    plain = unconditional(ddpm)
    with bridge.run(ddpm, Alternates()):
        cached = unconditional(ddpm)
    found, gate = {}, threading.Barrier(2)

    def work(kind):
        with bridge.run(ddpm, kind()):
            gate.wait()
            found[kind] = unconditional(ddpm)

    threads = [threading.Thread(target=work, args=(k,)) for k in (Watches, Alternates)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (
        torch.equal(found[Watches], plain) and torch.equal(found[Alternates], cached) and not torch.equal(plain, cached)
    )


def test_a_native_run_on_an_accelerated_pipeline_keeps_its_own_clock(dit):
    plugin = Watches()
    handle = bridge.accelerate(dit, plugin)
    d = bridge.denoiser(dit.transformer, dit.scheduler)
    sample(
        d, (2, 4, 8, 8), catalog.build("solvers", "ddim"), 3, cond={"class_labels": torch.tensor([1, 3])}, ids=[7, 9]
    )
    handle()
    assert [(c.step, c.ids) for c in plugin.clocks] == [(k, (7, 9)) for k in range(3)]


def test_two_networks_do_not_share_memory(ddpm):
    """A pipeline whose second expert takes over half-way: same names of sites, other memories."""
    import copy

    class Experts:
        def __init__(self, scheduler):
            self.transformer, self.transformer_2 = ddpm.unet, copy.deepcopy(ddpm.unet)
            self.scheduler = scheduler

        def __call__(self, steps):
            self.scheduler.set_timesteps(steps)
            x = torch.ones(BATCH, 3, 8, 8)
            for k, t in enumerate(self.scheduler.timesteps):
                with torch.no_grad():
                    x = self.scheduler.step((self.transformer_2 if k >= 3 else self.transformer)(x, t).sample, t, x)[0]
            return x

    pipe, plugin = Experts(ddpm.scheduler), Alternates()
    with bridge.run(pipe, plugin) as record:
        pipe(6)
    assert [(c.step, c.branch) for c in plugin.clocks] == [*((k, "cond") for k in range(3)),
                                                          *((k, "transformer_2:cond") for k in range(3, 6))]  # fmt: skip
    assert record.computed_at["/network"] == 4  # 0, 2 by the first; 3 (nothing is remembered yet), 4 by the second


def test_load_bridges_a_pipeline(dit):
    bridged = ornstein.load(dit)
    assert isinstance(bridged, bridge.BridgedPipeline) and bridged.network is dit.transformer
    scheduler = bridged.scheduler("dpmpp2m")
    assert dit.scheduler is scheduler
    handle = bridged.attach(Alternates())
    out = classes(dit)
    assert bool(out.isfinite().all()) and handle.record.skipped() == 0.5
    handle()
    x = sample(bridged.denoiser(null={"class_labels": torch.tensor([1000])}), (2, 4, 8, 8), catalog.build("solvers", "ddim"), 4,
               cond={"class_labels": torch.tensor([1, 3])})  # fmt: skip
    assert x.shape == (2, 4, 8, 8) and bool(x.isfinite().all())


def test_nothing_of_diffusers_is_imported_by_the_bridge():
    import subprocess

    code = "import sys, ornstein.bridges.diffusers; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------- our guidance in a pipeline's own loop


def nothing(pipe):
    with torch.no_grad():
        return {"encoder_hidden_states": pipe.text_encoder(torch.tensor([[1, 2, 0, 0, 0]]))[0]}


def test_our_guidance_in_their_loop_is_their_guidance(stable):
    """One line: the pipeline with its own guidance off and cfg attached draws what it draws with its own."""
    theirs, plain = prompted(stable, scale=5.0), prompted(stable, scale=1.0)
    bridged = bridge.load(stable)
    handle = bridged.attach(bridged.guidance("cfg:scale=5", nothing(stable)))
    ours = prompted(stable, scale=1.0)
    assert torch.allclose(ours, theirs, atol=1e-4) and not torch.allclose(ours, plain, atol=1e-2)
    assert handle.record.calls["cond"] == handle.record.calls["uncond"] == 6
    handle()
    assert torch.equal(prompted(stable, scale=1.0), plain)


def test_guidance_and_a_cache_in_their_loop_keep_branches_apart(stable):
    bridged, seen = bridge.load(stable), []

    class Watch:
        effects = Effects()

        def select(self, sites):
            return [s for s in sites if s.grain == "branch"][:1]

        def start(self):
            return {"steps": []}

        def around(self, site, clock, streams, run, memory):
            memory["steps"].append(clock.step)
            seen.append((clock.branch, memory))
            return run(streams)

    handle = bridged.attach([bridged.guidance("cfg:scale=5", nothing(stable)), Watch()])
    prompted(stable, scale=1.0)
    handle()
    steps = {branch: memory["steps"] for branch, memory in seen}
    assert steps == {"cond": [0, 1, 2, 3, 4, 5], "uncond": [0, 1, 2, 3, 4, 5]}


def test_guidance_within_an_interval_saves_calls_in_their_loop(stable):
    bridged = bridge.load(stable)
    handle = bridged.attach(bridged.guidance("cfg:scale=5,interval=(0,0.5)", nothing(stable)))
    prompted(stable, scale=1.0)
    assert 0 < handle.record.calls["uncond"] < 6
    handle()


def test_guidance_of_a_network_that_also_answers_a_variance(dit):
    def drawn(scale):
        generator = torch.Generator().manual_seed(0)
        return dit([1, 2], guidance_scale=scale, num_inference_steps=4, output_type="np", generator=generator).images

    theirs = drawn(4.0)
    bridged = bridge.load(dit)
    handle = bridged.attach(bridged.guidance("cfg:scale=4", {"class_labels": torch.tensor([1000])}))
    ours = drawn(1.0)
    handle()
    # their DiT pipeline guides the first three channels only
    assert abs(ours - theirs).max() < 0.2 and handle.record.calls["uncond"] == 4


def test_guidance_in_their_loop_refuses_what_it_cannot_do(stable):
    bridged = bridge.load(stable)
    for rules, null, words in (
        ((), None, "no guidance was given"),
        ("cfg:scale=5", {"encoder_hidden_states": torch.zeros(2, 5, 12)}, "is not one row"),
        ("cgf", None, "Did you mean 'cfg'"),
    ):
        with pytest.raises(OrnsteinError, match=words):
            bridged.guidance(rules, null)
    misspelt = {"encoder_hidden_state": torch.zeros(1, 5, 12)}
    for null, words in ((None, "a condition that says nothing"), (misspelt, "Did you mean 'encoder_hidden_states'")):
        handle = bridged.attach(bridged.guidance("cfg:scale=5", null))
        with pytest.raises(OrnsteinError, match=words):
            prompted(stable, scale=1.0)
        handle()
    handle = bridged.attach(bridged.guidance("cfg:scale=5", nothing(stable)))
    with pytest.raises(OrnsteinError, match="the pipeline guides by itself, and would be guided twice"):
        prompted(stable, scale=3.0)
    handle()

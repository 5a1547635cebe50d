"""Every guidance in a pipeline of diffusers, attached by one line: as in the house's own loop on the bridged network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from zoo import specimen  # noqa: E402

from ornstein.bridges import diffusers as bridge  # noqa: E402
from ornstein.core import catalog  # noqa: E402
from ornstein.core.denoiser import guide  # noqa: E402
from ornstein.core.errors import OrnsteinError  # noqa: E402
from ornstein.core.loop import sample  # noqa: E402
from ornstein.guidance.aggregation import Aggregation  # noqa: E402
from ornstein.guidance.apg import APG  # noqa: E402
from ornstein.guidance.autoguidance import Autoguidance  # noqa: E402
from ornstein.guidance.blackscholes import BlackScholes  # noqa: E402
from ornstein.guidance.cached import CachedCFG  # noqa: E402
from ornstein.guidance.cfg import CFG  # noqa: E402
from ornstein.guidance.cfgpp import CFGpp  # noqa: E402
from ornstein.guidance.cfgzero import CFGZero  # noqa: E402
from ornstein.guidance.classifier import Classifier  # noqa: E402
from ornstein.guidance.compose import Compose  # noqa: E402
from ornstein.guidance.ensemble import Ensemble  # noqa: E402
from ornstein.guidance.experts import Experts  # noqa: E402
from ornstein.guidance.invariant import Invariant, Shift  # noqa: E402
from ornstein.guidance.loss import Loss  # noqa: E402
from ornstein.guidance.minority import Minority  # noqa: E402
from ornstein.guidance.perturbed import Perturbed  # noqa: E402
from ornstein.guidance.rescaled import Rescaled  # noqa: E402
from ornstein.guidance.stitch import Stitch  # noqa: E402
from ornstein.guidance.superdiff import SuperDiff  # noqa: E402
from ornstein.guidance.thresholding import Thresholding  # noqa: E402

STEPS, SHAPE = 4, (4, 8, 8)
TEXT = "encoder_hidden_states"


def text(seed: int) -> dict[str, torch.Tensor]:
    return {TEXT: torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(seed))}


@cache
def pipeline() -> Any:
    betas = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                                    timestep_spacing="trailing")  # fmt: skip
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    pipe = diffusers.StableDiffusionPipeline(vae, None, None, specimen("UNet2DConditionModel")[0], betas, None, None,
                                             requires_safety_checker=False)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def worse() -> Any:
    """A second network over the same schedule, as a denoiser."""
    torch.manual_seed(11)
    net = diffusers.UNet2DConditionModel(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                                         cross_attention_dim=12, attention_head_dim=4,
                                         down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                         up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))  # fmt: skip
    return bridge.denoiser(net.eval().requires_grad_(False), pipeline().scheduler)


def logits(x: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
    return x.flatten(1) @ torch.randn(x[0].numel(), 5, generator=torch.Generator().manual_seed(1)).to(x) / 8


def said(output: torch.Tensor, cond: Any) -> torch.Tensor:
    return output.log_softmax(1)[:, 2]


def far(x: torch.Tensor, cond: Any) -> torch.Tensor:
    return (x - 0.5).square().flatten(1).sum(1)


def alike(x: torch.Tensor, cond: Any) -> torch.Tensor:
    return 50 + 40 * logits(x)[:, 0].tanh() + cond[TEXT].mean((1, 2))


def times() -> tuple[float, ...]:
    pipe = pipeline()
    pipe.scheduler.set_timesteps(STEPS)
    return (*((float(k) + 1) / 1000 for k in pipe.scheduler.timesteps), 0.0)


@dataclass(frozen=True)
class Trial:
    """rules: fresh parts; plugins: what is attached beside; refused: the words of the refusal, '' where it works."""

    rules: Callable[[], tuple]
    plugins: Callable[[tuple], list] = lambda rules: []
    refused: str = ""


def learned() -> Any:
    from ornstein.core.artefact import Artefact, describe

    torch.manual_seed(0)
    net = Shift(256, 1, 8)
    nn.init.normal_(net.out.weight, std=0.5)
    made = describe(bridge.denoiser(pipeline().unet, pipeline().scheduler))
    return Artefact("invariant", {f"net.{k}": v for k, v in net.state_dict().items()},
                    {"features": 256, "labels": 1, "width": 8, "groups": 2, "penalty": 1.0}, made)  # fmt: skip


TRIALS = {
    "aggregation": Trial(lambda: (Aggregation(nn.Identity()),), refused="takes the place of a network"),
    "apg": Trial(lambda: (APG(4.0, momentum=-0.5),)),
    "autoguidance": Trial(lambda: (Autoguidance(worse(), 1.5),)),
    "blackscholes": Trial(lambda: (CFG(3.0), BlackScholes(alike, (text(5),)))),
    "blackscholes in turn": Trial(lambda: (BlackScholes(None, (text(5),), "alternate"),)),
    "cached": Trial(lambda: (CachedCFG(4.0, 2, 1.0),)),
    "cfg": Trial(lambda: (CFG(4.0),)),
    "cfg from a negative": Trial(lambda: (CFG(4.0, negative=text(5)),)),
    "cfgpp": Trial(lambda: (CFGpp(0.6, rule=times()),)),
    "cfgpp on another grid": Trial(lambda: (CFGpp(0.6, rule="quadratic"),), refused="not where the grid 'quadratic' has it"),
    "cfgzero": Trial(lambda: (CFGZero(4.0, 0.1),)),
    "classifier": Trial(lambda: (Classifier(logits, 3.0, label="label"),), refused="finds no condition 'label'"),
    "compose": Trial(lambda: (Compose(2.0, (text(5),), (1.5,)),)),
    "ensemble": Trial(lambda: (Ensemble((worse(),), (0.5,)),)),
    "experts": Trial(lambda: (Experts((logits, logits), 2.0, target=said),)),
    "invariant": Trial(lambda: (Invariant(learned(), 2.0), CFG(2.0))),
    "loss": Trial(lambda: (CFG(3.0), Loss(far, 0.05))),
    "loss at x0": Trial(lambda: (Loss(far, 0.2, "x0"),)),
    "minority": Trial(lambda: (Minority(logits, 3.0),)),
    "perturbed": Trial(lambda: (Perturbed(1.0), CFG(3.0)), lambda rules: [rules[0].plugin]),
    "perturbed without its plugin": Trial(lambda: (Perturbed(1.0),), refused=r"Attach rule\.plugin"),
    "rescaled": Trial(lambda: (Rescaled(4.0),)),
    "stitch": Trial(lambda: (Stitch((worse(),), (0.5,)),)),
    "superdiff": Trial(lambda: (CFG(3.0), SuperDiff((text(5),), rule=times()))),
    "superdiff of both": Trial(lambda: (SuperDiff((text(5),), mode="and", limit=1.0, rule=times()),)),
    "thresholding": Trial(lambda: (CFG(4.0), Thresholding(1.0))),
}  # fmt: skip


def start() -> torch.Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))


def drawn(rows: slice = slice(None)) -> torch.Tensor:
    pipe, x = pipeline(), start()[rows]
    prompts = torch.cat([text(1)[TEXT], text(2)[TEXT]])[rows]
    side = 8 * pipe.vae_scale_factor
    return pipe(prompt_embeds=prompts, guidance_scale=1.0, height=side, width=side, num_inference_steps=STEPS,
                output_type="latent", latents=x).images  # fmt: skip


def guided(trial: Trial, rows: slice = slice(None), extra: tuple = ()) -> tuple[torch.Tensor, Any]:
    whole, rules = bridge.load(pipeline()), trial.rules()
    handle = whole.attach([whole.guidance(rules, text(9)), *trial.plugins(rules), *extra])
    try:
        return drawn(rows), handle
    finally:
        handle()


def test_every_guidance_is_tried_here():
    assert {n.split()[0] for n in TRIALS} == {e.name for e in catalog.entries("guidance")}


@pytest.mark.parametrize("name", [n for n in TRIALS if not TRIALS[n].refused])
def test_in_their_loop_as_in_ours(name):
    """The pipeline under the attached guidance draws what our DDIM draws at its times, under the same rules."""
    trial, plain = TRIALS[name], drawn()
    theirs, handle = guided(trial)
    assert theirs.isfinite().all() and not torch.allclose(theirs, plain, atol=1e-2)
    d = guide(bridge.denoiser(pipeline().unet, pipeline().scheduler, null=text(9)), *trial.rules())
    cond = {TEXT: torch.cat([text(1)[TEXT], text(2)[TEXT]])}
    with torch.no_grad():
        ours = sample(d, start(), catalog.build("solvers", "ddim"), STEPS, cond=cond, rule=times())
    assert torch.allclose(theirs, ours, atol=2e-3 * float(ours.abs().max()))
    assert torch.equal(drawn(), plain) and handle.record.calls["cond"] <= STEPS
    assert torch.allclose(guided(trial, slice(1, 2))[0], theirs[1:], atol=1e-3 * float(ours.abs().max()))


@pytest.mark.parametrize("name", [n for n in TRIALS if TRIALS[n].refused])
def test_what_cannot_be_done_there_is_refused_with_a_remedy(name):
    with pytest.raises(OrnsteinError, match=TRIALS[name].refused):
        guided(TRIALS[name])


def test_classes_of_a_network_guide_a_classifier_in_its_pipeline():
    """The label has the network's own name there."""
    net, _ = specimen("DiTTransformer2DModel")
    pipe = diffusers.DiTPipeline(net, diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1),
                                 diffusers.DDIMScheduler(clip_sample=False))  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def picture() -> torch.Tensor:
        with torch.no_grad():
            return torch.tensor(pipe([1, 3], 1.0, torch.manual_seed(0), 3, output_type="np").images)

    plain, whole = picture(), bridge.load(pipe)
    for rule in (Classifier(logits, 5.0, label="class_labels"), Classifier(logits, 5.0, "xt", label="class_labels")):
        handle = whole.attach(whole.guidance(rule))
        assert not torch.allclose(picture(), plain, atol=1e-3)
        handle()
    assert torch.equal(picture(), plain)


@pytest.mark.parametrize("name", ["cfg", "perturbed", "apg", "cached"])
def test_a_cache_beside_guidance_in_their_loop(name):
    """Never skipping changes nothing; skipping stays near, on every branch by itself."""
    alone, _ = guided(TRIALS[name])
    exact, _ = guided(TRIALS[name], extra=(catalog.build("acceleration", "taylorseer:interval=1"),))
    near, handle = guided(TRIALS[name], extra=(catalog.build("acceleration", "taylorseer:interval=2,warmup=1"),))
    assert torch.equal(alone, exact) and (near - alone).norm() < 0.5 * alone.norm()
    assert set(handle.record.facts["taylorseer"]) == set(handle.record.calls) - {"evaluations"}


STEERINGS = {
    "best_of_n": {"budget": 3}, "fk": {"budget": 3}, "hallucination": {"budget": 3}, "path_search": {"budget": 4},
    "rbf": {"quota": 3}, "svdd": {"budget": 3}, "w2sd": {}, "zero_order": {"budget": 2, "rounds": 2},
}  # fmt: skip


class Weaker:
    """The same network, less sure."""

    def __init__(self, base: Any) -> None:
        self.base, self.process = base, base.process

    def __call__(self, x: Any, t: Any, cond: Any = None, clock: Any = None) -> Any:
        answer = self.base(x, t, cond, clock)
        return answer.like("x0", answer.x0 * 0.8)


@pytest.mark.parametrize("name", STEERINGS)
def test_steering_of_a_bridged_network(name):
    """A sample alone is that of a batch."""
    foreign = bridge.denoiser(pipeline().unet, pipeline().scheduler)
    cond = {TEXT: torch.cat([text(k)[TEXT] for k in range(3)])}
    reward = lambda x, c: x.flatten(1)[:, :20].mean(1)  # noqa: E731

    def draw(rows: list[int], *parts: Any) -> torch.Tensor:
        return sample(foreign, (len(rows), *SHAPE), catalog.build("solvers", "ddim:eta=1"), 4, ids=rows, seed=3,
                      cond={TEXT: cond[TEXT][rows]}, controllers=parts)  # fmt: skip

    part = catalog.build("steering", {"name": name, **STEERINGS[name]}, reward=reward, weak=Weaker(foreign))
    together = draw([0, 1, 2], part)
    assert together.isfinite().all() and not torch.allclose(together, draw([0, 1, 2]), atol=1e-3)
    assert torch.allclose(draw([2], part)[0], together[2], atol=1e-3 * float(together.abs().max()))

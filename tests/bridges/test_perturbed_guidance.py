"""Perturbed guidance on foreign networks: as denoisers, and in the loop of a pipeline."""

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed")

import diffusers
from zoo import ZOO, specimen

from ornstein.bridges import diffusers as bridge
from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.guidance.perturbed import Perturbed

JOINT = ("SD3", "Flux", "Qwen", "CogVideoX")  # attention over text and image at once
NONE = ("Sana",)  # linear attention
FLOWS = ("SD3", "Flux", "Qwen", "Wan", "Sana")


def bridged(name):
    net, inputs = specimen(name)
    known = dict(inputs)
    x, _ = known.pop("sample" if ZOO[name].unet else "hidden_states"), known.pop("timestep")
    shared = {k: known.pop(k) for k in ("img_ids", "txt_ids", "img_shapes") if k in known}
    flows = any(w in name for w in FLOWS)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler() if flows else diffusers.DDPMScheduler(clip_sample=False)
    return bridge.denoiser(net, scheduler, shared=shared), x, known


@pytest.mark.parametrize("name", ZOO)
def test_each_foreign_network_is_perturbed_or_says_why_not(name):
    d, x, known = bridged(name)
    clock = Clock(ids=(0, 1))
    with torch.no_grad():
        plain = d(x, 0.5, known, clock).value
        for how in ("identity", "blur", "skip"):
            g = guide(d, Perturbed(1.0, how))
            if how == "skip" and ZOO[name].unet or how != "skip" and any(w in name for w in NONE):
                words = "finds no place"
            elif how != "skip" and any(w in name for w in JOINT) and not name.startswith("Flux"):
                words = "joins text and image"
            else:
                said = g(x, 0.5, known, clock).value
                assert bool(said.isfinite().all()) and not torch.equal(said, plain), how
                continue
            with pytest.raises(OrnsteinError, match=words):
                g(x, 0.5, known, clock)
        assert torch.equal(d(x, 0.5, known, clock).value, plain)
    if name.startswith("Flux"):  # its middle block looks at one stream of both; its first ones join two
        with pytest.raises(OrnsteinError, match="joins text and image"):
            guide(d, Perturbed(1.0, blocks=(0,)))(x, 0.5, known, clock)


def test_in_the_loop_of_a_pipeline():
    net, _ = specimen("UNet2DModel")
    pipe = diffusers.DDIMPipeline(net, diffusers.DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)

    def drawn():
        return torch.tensor(pipe(1, torch.manual_seed(0), num_inference_steps=3, output_type="np").images)

    rule, plain, whole = Perturbed(1.0), drawn(), bridge.load(pipe)
    handle = whole.attach([whole.guidance(rule), rule.plugin])
    guided = drawn()
    assert handle.record.calls["perturbed"] == 3 and not torch.allclose(guided, plain, atol=1e-4)
    handle()
    assert torch.equal(drawn(), plain)
    handle = whole.attach(whole.guidance(rule))
    with pytest.raises(OrnsteinError, match=r"Attach rule\.plugin"):
        drawn()
    handle()

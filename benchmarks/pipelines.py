"""A pipeline of diffusers, trained here for some minutes, tuned; beside it what its user would set by hand in diffusers.

python benchmarks/pipelines.py [--bounds 0.05 0.1 0.2] [--budget 60] [--minutes 3] [--fresh 500] [--json FILE] [--keep FILE]

The network is diffusers' UNet2DModel, the data the digits of 8x8 pixels, the schedule linear betas. By hand: DDIM and
DPM-Solver++(2M) of diffusers, this with the sigmas of Karras too, at the customary steps, of which the fastest whose mean loss over
the fresh samples is within the bound; no confidence is asked of them. Loss: `latent` to 60 steps of the usual solver, same seeds.
ratio: seconds over the seconds by hand.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import diffusers
import torch
from interleaved import measure, ratio, written
from safetensors.torch import load_file, save_file

import ornstein
from ornstein import tune
from ornstein.core import catalog
from ornstein.quality import Trial

STEPS = (5, 8, 10, 12, 15, 20, 25, 30, 50)
SCHEDULERS = {"DDIM": ("DDIMScheduler", {}), "DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
              "DPM-Solver++, Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True})}  # fmt: skip
FRESH = 33_333_333


def trained(minutes: float, keep: Path | None) -> diffusers.UNet2DModel:
    """The network, trained for so long on all digits, with an average of its weights; kept in a file, if one is named."""
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64),
                                down_block_types=("DownBlock2D", "AttnDownBlock2D"), norm_num_groups=8,
                                up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=16)  # fmt: skip
    if keep and keep.is_file():
        net.load_state_dict(load_file(keep))
        return net.eval()
    images = catalog.build("data", "digits", split="all").images()
    schedule, optimiser = diffusers.DDPMScheduler(), torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0)
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    began, steps = time.process_time(), 0
    while (spent := (time.process_time() - began) / 60 / minutes) < 1:
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1.0, (steps + 1) / 200, 0.02 + 2 * (1 - spent))
        x = images[torch.randint(len(images), (128,))]
        noise, t = torch.randn_like(x), torch.randint(1000, (128,))
        loss = (net(schedule.add_noise(x, noise, t), t).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        mean.update_parameters(net)
        steps += 1
    net.load_state_dict(mean.module.state_dict())
    print(f"{steps} steps of training, last loss {loss.item():.4f}", flush=True)
    if keep:
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, keep)
    return net.eval()


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--bounds", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    ask.add_argument("--minutes", type=float, default=3.0)
    for name, default in (("budget", 60), ("fresh", 500), ("batch", 16), ("repeats", 9), ("threads", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    for name in ("json", "keep"):
        ask.add_argument(f"--{name}", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    betas = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    pipe = diffusers.DDPMPipeline(trained(a.minutes, a.keep), betas)
    pipe.set_progress_bar_config(disable=True)
    model = ornstein.load(pipe)
    trial, results, hand = Trial(model, [""], model.plan(steps=60), a.batch), [], {}
    for name, (kind, settings) in SCHEDULERS.items():
        theirs = diffusers.DDPMPipeline(pipe.unet, getattr(diffusers, kind).from_config(betas.config, **settings))
        theirs.set_progress_bar_config(disable=True)
        other = ornstein.load(theirs)
        draws = Trial(other, [""], other.shipped(), a.batch)
        for steps in STEPS:
            plan = other.plan(solver="own", grid="own", steps=steps)
            loss = trial.loss("latent", draws.draw(plan, FRESH, a.fresh)[0], FRESH).mean
            hand[f"{name}, {steps} steps"] = (steps, loss, draws, plan)
            print(f"{name}, {steps} steps: {loss:.4f}", flush=True)
    for bound in a.bounds:
        made = tune.tune(model, tune.Goal("latent", bound), a.budget, prompts=[""], reference=trial.reference, batch=a.batch)
        kept = sorted((h[0], h[1], key) for key, h in hand.items() if h[1] <= bound)
        if made.plan is None or not kept:
            print(f"{bound}: tuned {made.plan and tune.label(made.plan)}, by hand {kept[:1]}", flush=True)
            continue
        best = kept[0][2]
        loss = trial.loss("latent", trial.draw(made.plan, FRESH, a.fresh)[0], FRESH).mean
        seconds = measure({"tuned": lambda p=made.plan: trial.draw(p, 0, a.batch),
                           "by hand": lambda h=hand[best]: h[2].draw(h[3], 0, a.batch)}, a.repeats)  # fmt: skip
        row = {"median_ms": 1e3 * sorted(seconds["tuned"])[a.repeats // 2] / a.batch, "ratio": ratio(seconds, "tuned", "by hand"),
               "tuned": tune.label(made.plan), "loss": loss,
               "n": made.plan.figures["n"], "by_hand": best, "by_hand_loss": hand[best][1]}  # fmt: skip
        results.append({"title": f"UNet2DModel on digits, latent at most {bound}", "rows": {"tuned": row}})
        print(json.dumps(results[-1]), flush=True)
    written(a.json, results)


if __name__ == "__main__":
    main()

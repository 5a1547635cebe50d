"""What every loss of pretraining keeps to, over all files of the folder."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.processes.flow import Flow
from ornstein.processes.masked import Masked

LOSSES = [e for e in catalog.entries("losses") if e.path.startswith("losses/pretraining/")]
each = pytest.mark.parametrize("entry", LOSSES, ids=lambda e: e.path)


def training(entry, dtype=torch.float32):
    """A linear network, its denoiser and a batch: of numbers, or of tokens where the loss is about these."""
    torch.manual_seed(0)
    if getattr(catalog.load("losses", entry.path), "discrete", False):
        return of_tokens(dtype)
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.Unflatten(1, (1, 8, 8))).to(dtype)
    denoiser = Denoiser(lambda x, t, cond, taps=(): layer(x.to(dtype)), Flow(), null=lambda c, b: {"label": torch.full((b,), 10)})
    batch = {"x0": torch.randn(6, 1, 8, 8), "cond": {"label": torch.arange(6)}, "u": (torch.arange(6) + 0.5) / 6,
             "noise": torch.randn(6, 1, 8, 8), "drop": torch.rand(6)}  # fmt: skip
    return layer, denoiser, batch


def of_tokens(dtype):
    layer = torch.nn.Linear(64, 128, dtype=dtype)

    def network(x, t, cond, taps=()):
        return layer((x.flatten(1) == 2).to(dtype)).reshape(*x.shape, 2)

    denoiser = Denoiser(network, Masked(2), "logits", null=lambda c, b: {"label": torch.full((b,), 10)})
    batch = {"x0": torch.randint(2, (6, 1, 8, 8)), "cond": {"label": torch.arange(6)}, "u": (torch.arange(6) + 0.5) / 6,
             "noise": torch.randn(6, 1, 8, 8), "drop": torch.rand(6)}  # fmt: skip
    return layer, denoiser, batch


def test_the_folder_is_seen():
    assert "losses/pretraining/denoising" in {e.path for e in LOSSES}


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_named_finite_scalars_with_gradients(entry, dtype):
    layer, denoiser, batch = training(entry, dtype)
    kept = {k: v.clone() for k, v in batch.items() if k != "cond"}
    losses = catalog.build("losses", entry.name)(denoiser, batch, torch.Generator().manual_seed(0), 0)
    assert "loss" in losses and all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    assert losses["loss"].dtype == torch.float32
    losses["loss"].backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in layer.parameters())
    assert all(torch.equal(v, batch[k]) for k, v in kept.items()), "the batch is left as it was"


@each
def test_the_mean_over_halves_is_the_whole(entry):
    """What N processes need: nothing in a sample's loss depends on its neighbours."""
    _, denoiser, batch = training(entry)
    loss = catalog.build("losses", entry.name)

    def part(rows):
        some = {k: v[rows] for k, v in batch.items() if k != "cond"} | {"cond": {"label": batch["cond"]["label"][rows]}}
        return loss(denoiser, some, torch.Generator().manual_seed(0), 0)["loss"]

    halves = (part(slice(0, None, 2)) + part(slice(1, None, 2))) / 2
    assert halves.item() == pytest.approx(part(slice(None)).item(), rel=1e-5)


@each
def test_the_callers_random_numbers_are_left_alone(entry):
    _, denoiser, batch = training(entry)
    state = torch.get_rng_state()
    bare = {"x0": batch["x0"], "cond": batch["cond"]}
    catalog.build("losses", entry.name)(denoiser, bare, torch.Generator().manual_seed(0), 0)
    assert torch.equal(state, torch.get_rng_state())

"""LinFusion: the formula, its cost in tokens, the maps and their file, the training."""

from __future__ import annotations

import pytest
import torch

from ornstein.acceleration.linfusion import EPS, LinFusion, Recipe, distil, fresh, linear
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running


def test_it_is_the_sum_over_pairs():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 10, 4, dtype=torch.float64).unbind(0)
    phi = lambda x: torch.where(x > 0, x + 1, x.exp())  # noqa: E731
    weight = torch.einsum("bhid,bhjd->bhij", phi(q), phi(k)) / 10
    want = weight @ v / (weight.sum(-1, keepdim=True) + EPS)
    assert torch.allclose(linear(q, k, v), want, atol=1e-12)
    assert torch.allclose(linear(q, k, v, normalise=False), 10 * weight @ v, atol=1e-12)


def test_the_answer_does_not_grow_with_the_tokens():
    q, k, v = torch.randn(3, 1, 2, 32, 8).unbind(0)
    often = [x.repeat(1, 1, 16, 1) for x in (q, k, v)]
    assert torch.allclose(linear(*often)[:, :, :32], linear(q, k, v), atol=1e-5)
    grown = linear(*often, normalise=False)[:, :, :32] / linear(q, k, v, normalise=False)
    assert torch.allclose(grown, torch.full_like(grown, 16.0), rtol=1e-2)


def test_half_precision_sums_do_not_overflow():
    q, k, v = (torch.randn(1, 1, 4096, 8) * 6).half().expand(3, -1, -1, -1, -1).unbind(0)
    out = linear(q, k, v)
    assert out.dtype == torch.float16 and torch.allclose(out.float(), linear(q.float(), k.float(), v.float()), atol=5e-3)


@pytest.fixture
def host():
    torch.manual_seed(3)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=32,depth=3,heads=4,classes=10")
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.15)
    return Denoiser(net.eval().requires_grad_(False), catalog.build("processes", "flow"))


def answer(net, plugin, x, run=None):
    detach = attach(net, plugin) if plugin else (lambda: None)
    try:
        with running(run or Run()), calling(Clock(ids=tuple(range(len(x))))):
            return net(x, torch.full((len(x),), 0.5), {"label": torch.arange(len(x))})
    finally:
        detach()


def test_share_takes_the_last_layers(host):
    x, run = torch.randn(2, 1, 8, 8), Run()
    answer(host.backbone, LinFusion(share=0.34), x, run)
    assert [k for k in run.record.asked_at] == ["blocks.1.attn/attention", "blocks.2.attn/attention"]
    run = Run()
    answer(host.backbone, LinFusion(share=0.3), x, run)
    assert list(run.record.asked_at) == ["blocks.2.attn/attention"]


def batch(source):
    return torch.randn(8, 1, 8, 8, generator=source) * 0.5, {"label": torch.randint(10, (8,), generator=source)}


def test_maps_begin_as_nothing_learn_and_are_saved(host, tmp_path):
    x, cond = batch(torch.Generator().manual_seed(1))
    maps = fresh(host, x, 0.5, cond, hidden=8)
    assert len(maps) == 3 * 2 * 4 and maps["blocks.0.attn/q.in.weight"].shape == (8, 32)
    y = torch.randn(3, 1, 8, 8)
    assert torch.allclose(answer(host.backbone, LinFusion(maps=maps), y), answer(host.backbone, LinFusion(), y), atol=1e-5)
    plugin = LinFusion(maps=maps)
    done = distil(host, plugin, batch, Recipe(steps=25, lr=3e-3, target=0.0), extra=maps)
    assert done.losses[-5:, 1].mean() < 0.8 * done.losses[:5, 1].mean()
    assert all(v.abs().sum() > 0 for k, v in maps.items() if "weight" in k)
    assert not any(v.requires_grad for v in maps.values())
    want = answer(done.denoiser.backbone, plugin, y)
    assert not torch.allclose(want, answer(done.denoiser.backbone, LinFusion(), y), atol=1e-4)
    path = Artefact("linfusion", maps).save(tmp_path / "maps.safetensors")
    assert torch.equal(answer(done.denoiser.backbone, LinFusion(maps=str(path)), y), want)


def test_what_does_not_fit_is_refused(host):
    with pytest.raises(OrnsteinError, match="share is 0 to 1"):
        LinFusion(share=1.5)
    with pytest.raises(OrnsteinError, match="have none for 'blocks.0.attn'"):
        answer(host.backbone, LinFusion(maps={"other/q.in.weight": torch.zeros(1)}), torch.randn(2, 1, 8, 8))

    class Masks(LinFusion):
        effects = type(LinFusion.effects)()

        def around(self, site, clock, streams, run, memory):
            return run({**streams, "mask": torch.ones(16, 16, dtype=torch.bool)})

    with pytest.raises(OrnsteinError, match="it has a mask"):
        answer(host.backbone, [Masks(), LinFusion()], torch.randn(2, 1, 8, 8))

"""CLEAR: the windows are those of the definition, by tiles as by a mask; text; what is refused; the training."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from ornstein.acceleration.clear import CLEAR, Recipe, distil
from ornstein.acceleration.layers.windows import Layout, layout, pairs, tiled, visible
from ornstein.adapters.lora import LoRA
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running


def naive(q, k, v, rows, columns, radius):
    """One query at a time, from the definition."""
    out = torch.empty_like(q)
    for i in range(rows * columns):
        near = [j for j in range(rows * columns)
                if (i // columns - j // columns) ** 2 + (i % columns - j % columns) ** 2 < radius**2]  # fmt: skip
        weight = (q[:, :, i : i + 1] @ k[:, :, near].mT * q.shape[3] ** -0.5).softmax(-1)
        out[:, :, i : i + 1] = weight @ v[:, :, near]
    return out


SHAPES = [(7, 5, 2.0, 2), (7, 5, 2.5, 4), (6, 6, 3.0, 0), (9, 4, 1.0, 8), (5, 11, 3.7, 2)]


@pytest.mark.parametrize("rows, columns, radius, tile", SHAPES)
def test_windows_are_those_of_the_definition(rows, columns, radius, tile):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, rows * columns, 8, dtype=torch.float64).unbind(0)
    plan = Layout(rows, columns, layout(rows, columns, radius).reach, tile)
    assert torch.allclose(tiled(q, k, v, plan, visible(plan, radius)), naive(q, k, v, rows, columns, radius), atol=1e-12)


def test_counts_of_keys_are_the_papers():
    """Strictly inside: a query far from the rim sees 45, 193, 793 keys at r = 4, 8, 16."""
    for radius, count in ((4, 45), (8, 193), (16, 793)):
        plan = Layout(64, 64, radius - 1, 8)
        middle = visible(plan, radius)[0, 4 * 8 + 4]
        assert int(middle[0].sum()) == count
    whole = visible(Layout(9, 7, 0, 0), 2.3)
    assert pairs(9, 7, 2.3) == int(whole.sum())


def test_large_images_take_tiles_and_small_ones_a_mask():
    assert layout(64, 64, 8).tile == 8 and layout(64, 64, 4).tile == 4 and layout(4, 4, 2).tile == 0


def net(seed=3, size="depth=2"):
    torch.manual_seed(seed)
    made = catalog.build("backbones", f"dit:channels=1,patch=2,width=32,heads=4,classes=10,{size}")
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.15)
    return made.eval().requires_grad_(False)


def answer(model, plugin, x, run=None):
    detach = attach(model, plugin) if plugin else (lambda: None)
    try:
        with running(run or Run()), calling(Clock(ids=tuple(range(len(x))))):
            return model(x, torch.full((len(x),), 0.5), {"label": torch.arange(len(x))})
    finally:
        detach()


def test_a_window_over_the_whole_image_is_bit_exact_and_far_pixels_do_not_reach():
    model, x = net(size="depth=1"), torch.randn(2, 1, 24, 24)
    plain = answer(model, None, x)
    assert torch.equal(answer(model, CLEAR(radius=17.0), x), plain)
    assert torch.equal(answer(model, CLEAR(radius=float("inf")), x), plain)
    moved = x.clone()
    moved[..., :2, :2] += 3
    run = Run()
    one, two = answer(model, CLEAR(radius=3.0), x, run), answer(model, CLEAR(radius=3.0), moved)
    assert torch.equal(one[..., 8:, 8:], two[..., 8:, 8:]), "one layer of radius 3 reaches 2 tokens, that is 4 pixels"
    assert not torch.allclose(one[..., :6, :6], two[..., :6, :6])
    assert not torch.allclose(answer(model, CLEAR(radius=3.0, pool=4), x)[..., 8:, 8:],
                              answer(model, CLEAR(radius=3.0, pool=4), moved)[..., 8:, 8:])  # fmt: skip
    facts = run.record.facts["clear"]["cond"]
    assert facts["pairs_seen"] <= facts["pairs_computed"] < facts["pairs"] == 144**2
    assert abs(run.record.skipped() - (1 - pairs(12, 12, 3.0) / 144**2)) < 1e-9


def test_pooled_keys_are_means_of_cells():
    q, k, v = torch.randn(3, 1, 2, 36, 8, dtype=torch.float64).unbind(0)
    means = [x.unflatten(2, (3, 2, 3, 2)).mean((3, 5)).flatten(2, 3) for x in (k, v)]
    plan = layout(6, 6, 1.5)
    mask = torch.cat([visible(plan, 1.5)[0], torch.ones(36, 9, dtype=torch.bool)], 1)
    want = F.scaled_dot_product_attention(q, torch.cat([k, means[0]], 2), torch.cat([v, means[1]], 2), attn_mask=mask)
    class Site:
        name = grain = "a"

    class Bound:
        bound, run = {}, Run()

    got = CLEAR(radius=1.5, pool=2).around(Site, Clock(), {"q": q, "k": k, "v": v, "mask": None}, Bound, {"calls": {}, "seen": {}})
    assert torch.allclose(got["out"], want, atol=1e-12)


def test_text_joined_to_the_image_on_flux():
    """5 tokens of text come first, then 4 x 4 of the image; every layer's attention is that of the mask."""
    pytest.importorskip("diffusers")
    import zoo

    model, inputs = zoo.specimen("FluxTransformer2DModel")
    place = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    mask = torch.ones(21, 21, dtype=torch.bool)
    mask[5:, 5:] = ((place[:, None] - place) ** 2).sum(-1) < 2.1**2

    class Masked(CLEAR):
        def around(self, site, clock, streams, run, memory):
            return run({**streams, "mask": mask})

    said = []
    for plugin in (CLEAR(radius=2.1, text=5), Masked(), CLEAR(radius=0)):
        detach = attach(model, plugin)
        with running(Run()), calling(Clock(ids=(0, 1))):
            said.append(zoo.call(model, inputs))
        detach()
    assert torch.allclose(said[0], said[1], atol=1e-4) and not torch.allclose(said[0], said[2], atol=1e-2)
    detach = attach(model, CLEAR(radius=2.1))
    with running(Run()), calling(Clock()), pytest.raises(OrnsteinError, match="do not lie in rows and columns"):
        zoo.call(model, inputs)
    detach()


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"radius": -1.0}, {"radius": float("nan")}, {"warmup": -1}, {"aspect": 0.0}):
        with pytest.raises(OrnsteinError):
            CLEAR(**wrong)
    with pytest.raises(OrnsteinError, match="would both decide attention"):
        attach(net(), [CLEAR(), catalog.build("acceleration", "linfusion")])


def batch(source):
    return torch.randn(8, 1, 8, 8, generator=source) * 0.5, {"label": torch.randint(10, (8,), generator=source)}


def test_distillation_brings_the_student_nearer_and_leaves_the_host_alone():
    host = Denoiser(net(), catalog.build("processes", "flow"))
    before, plugin = copy.deepcopy(host.backbone.state_dict()), CLEAR(radius=1.5)
    with torch.no_grad():
        done = distil(host, plugin, batch, Recipe(steps=25, lr=3e-3, target=0.0))
    assert done.losses.shape == (25, 3) and done.losses[-5:, 1].mean() < 0.8 * done.losses[:5, 1].mean()
    assert all(torch.equal(v, before[k]) for k, v in host.backbone.state_dict().items())
    assert all(".attn." in k for k in done.weights) and not any(p.requires_grad for p in host.backbone.parameters())
    assert not any("forward" in m.__dict__ for d in (host, done.denoiser) for m in d.backbone.modules())
    again = net()
    again.load_state_dict(dict(done.weights), strict=False)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(answer(again, plugin, x), answer(done.denoiser.backbone, plugin, x))
    gap = [(answer(n, plugin, x) - answer(host.backbone, None, x)).norm() for n in (host.backbone, again)]
    assert gap[1] < gap[0]


def test_a_lora_can_be_what_is_trained():
    host = Denoiser(net(), catalog.build("processes", "flow"))
    student = copy.deepcopy(host.backbone)
    adapter = LoRA(rank=2)(student)
    done = distil(host, CLEAR(radius=1.5), batch, Recipe(steps=3), student=student, extra=adapter.named())
    assert not done.weights and all(v.abs().sum() > 0 for v in adapter.named().values())
    assert all(torch.equal(v, host.backbone.state_dict()[k]) for k, v in student.state_dict().items()
               if k in host.backbone.state_dict())  # fmt: skip
    with pytest.raises(OrnsteinError, match="nothing of the student"):
        distil(host, CLEAR(radius=1.5), batch, student=copy.deepcopy(host.backbone))


def test_the_attentions_can_be_all_that_is_matched_and_a_warm_up_does_not_hide_the_plugin():
    host = Denoiser(net(), catalog.build("processes", "flow"))
    recipe = Recipe(steps=15, lr=3e-3, target=0.0, output=0.0)
    done = distil(host, CLEAR(radius=1.5), batch, recipe)
    assert done.losses[-3:, 2].mean() < 0.8 * done.losses[:3, 2].mean()
    assert torch.equal(distil(host, CLEAR(radius=1.5, warmup=4), batch, recipe).losses, done.losses)

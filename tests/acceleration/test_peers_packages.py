"""Our caches beside those of the packages DeepCache and cache-dit: the same answers where the rules are the same."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from ornstein.acceleration.deepcache import DeepCache
from ornstein.acceleration.firstblock import FirstBlock
from ornstein.core.clock import Clock
from ornstein.core.seam import Run, attach, calling, running

pytest.importorskip("diffusers")
STEPS = 10


def near(a, b, most=1e-5):
    return float((a - b).norm() / b.norm()) < most


def unet():
    """Two layers per level, as Stable Diffusion has; weights large enough that what is skipped matters."""
    from diffusers import UNet2DModel

    net = UNet2DModel(sample_size=16, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(8, 16, 16),
                      norm_num_groups=4, attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                      up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"))  # fmt: skip
    source = torch.Generator().manual_seed(0)
    for key, p in net.named_parameters():
        p.data = torch.randn(p.shape, generator=source) * (0.5 if p.ndim > 1 and "time" not in key else 0.1)
    return net.eval().requires_grad_(False)


def euler(said, start, steps=STEPS):
    x = start
    for k in range(steps):
        v = said(k, x, 1000.0 - 1000.0 * k / steps)
        x = x - v / v.std((1, 2, 3), keepdim=True) / steps
    return x


def alone(net, plugin, start, call):
    """The walk of a copy of the network with our plugin."""
    mine, ids = copy.deepcopy(net), tuple(range(len(start)))
    attach(mine, plugin)

    def said(k, x, t):
        with calling(Clock(k, 0, STEPS, t / 1000, "cond", ids)):
            return call(mine, x, t)

    with running(Run()):
        return euler(said, start)


@pytest.mark.parametrize("interval, branch", [(2, 1), (3, 1), (3, 2)])
def test_deepcache_is_the_package_of_its_authors(interval, branch):
    """Whole outer levels, as ours has them, are its branch 3 (m - 1) + 2."""
    package = pytest.importorskip("DeepCache", reason="the package DeepCache is not installed")
    net, start = unet(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    call = lambda net, x, t: net(x, torch.tensor(t)).sample  # noqa: E731
    theirs = copy.deepcopy(net)
    pipe = SimpleNamespace(unet=theirs, scheduler=SimpleNamespace(timesteps=[1000.0 - 1000.0 * k / STEPS for k in range(STEPS)]))
    helper = package.DeepCacheSDHelper(pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=3 * (branch - 1) + 2)
    helper.enable()
    said = euler(lambda k, x, t: call(theirs, x, t), start)
    helper.disable()
    full = euler(lambda k, x, t: call(net, x, t), start)
    assert near(alone(net, DeepCache(interval, branch), start, call), said)
    assert not near(said, full, 1e-3), "what is skipped matters"
    assert not near(alone(net, DeepCache(interval + 1, branch), start, call), said, 1e-4)


def dbcache(net, threshold, warmup):
    cache_dit = pytest.importorskip("cache_dit", reason="the package cache-dit is not installed")
    from cache_dit.caching.patch_functors.functor_dit import DiTPatchFunctor

    theirs = copy.deepcopy(net)
    adapter = cache_dit.BlockAdapter(transformer=theirs, blocks=theirs.transformer_blocks, has_separate_cfg=False,
                                     forward_pattern=cache_dit.ForwardPattern.Pattern_3, check_forward_pattern=False,
                                     patch_functor=DiTPatchFunctor())  # fmt: skip
    config = cache_dit.DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=0, max_warmup_steps=warmup,
                                     residual_diff_threshold=threshold, num_inference_steps=STEPS)  # fmt: skip
    cache_dit.enable_cache(adapter, cache_config=config)
    return theirs


def ask(net, x, t, label=None):
    return net(x, torch.full((len(x),), t), torch.arange(len(x)) if label is None else label, return_dict=False)[0]


def walked(net, label=None):
    return lambda k, x, t: ask(net, x, t, label)


def test_a_walk_of_dbcache_is_begun_by_hand():
    """What the page of figures says: without refresh_context the next walk goes on with what the last one left."""
    cache_dit = pytest.importorskip("cache_dit", reason="the package cache-dit is not installed")
    from ornstein.bridges.layers.caches import task

    job = task(layers=4, width=32, size=8, batch=1, steps=STEPS)
    net = dbcache(job.net, 0.15, 2)
    first = euler(walked(net), job.start)
    assert not near(euler(walked(net), job.start), first, 1e-4)
    cache_dit.refresh_context(net, num_inference_steps=STEPS)
    assert near(euler(walked(net), job.start), first, 1e-7)


@pytest.mark.parametrize("threshold, warmup", [(0.15, 1), (0.15, 2), (0.3, 4)])
def test_firstblock_of_one_sample_is_dbcache_with_one_first_block(threshold, warmup):
    from ornstein.bridges.layers.caches import task

    job = task(layers=4, width=32, size=8, batch=1, steps=STEPS)
    theirs = dbcache(job.net, threshold, warmup)
    said = euler(walked(theirs), job.start)
    mine = alone(job.net, FirstBlock(threshold, warmup), job.start, ask)
    assert near(mine, said) and not near(alone(job.net, FirstBlock(0.0), job.start, ask), said, 1e-4)


def test_dbcache_decides_for_the_batch_and_firstblock_for_each_sample():
    from ornstein.bridges.layers.caches import task

    job = task(layers=4, width=32, size=8, batch=4, steps=STEPS)
    gaps = []
    for threshold in (0.15, 0.25):
        mine = alone(job.net, FirstBlock(threshold, 2), job.start, ask)
        said = euler(walked(dbcache(job.net, threshold, 2)), job.start)
        for k in range(4):
            one, label = job.start[k : k + 1], torch.tensor([k])
            lone = alone(job.net, FirstBlock(threshold, 2), one, lambda net, x, t: ask(net, x, t, label))  # noqa: B023
            assert near(mine[k : k + 1], lone), "ours: a sample does not depend on its neighbours"
            theirs = euler(walked(dbcache(job.net, threshold, 2), label), one)
            assert near(theirs, lone), "alone, both are one rule"
            gaps.append(float((said[k : k + 1] - theirs).norm() / theirs.norm()))
    assert max(gaps) > 1e-4, "theirs decides for all four at once"

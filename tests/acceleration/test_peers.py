"""Our caches beside those of diffusers: the same answers where the rules are the same, on one transformer."""

from __future__ import annotations

import pytest
import torch

from ornstein.acceleration.firstblock import FirstBlock
from ornstein.acceleration.magcache import MagCache, resampled
from ornstein.acceleration.taylorseer import TaylorSeer
from ornstein.core.seam import Run, attach

hooks = pytest.importorskip("diffusers.hooks")
from ornstein.bridges.layers import caches as bench  # noqa: E402

STEPS = 14


def task(**settings):
    return bench.task(**{"layers": 4, "width": 32, "size": 8, "batch": 2, "steps": STEPS, **settings})


def theirs(job, apply, config, t=None):
    """The walk with a cache of diffusers on a copy of the network, without FLOPs and clocks."""
    import copy

    net = copy.deepcopy(job.net)
    config.now = t or {"t": 0.0}
    apply(net, config)
    return bench._walk(job, net, lambda: bench._theirs(net, config))


def ours(job, plugin):
    detach, run = attach(job.net, plugin), Run()
    try:
        return bench._walk(job, job.net, lambda: bench._ours(job, run)), run
    finally:
        detach()


def near(a, b, most=1e-5):
    return float((a - b).norm() / b.norm()) < most


def full_of_theirs(interval, before):
    """Their rule: before step `before`, then where (step - before - 1) is a multiple of the interval."""
    return tuple(k for k in range(STEPS) if k < before or (k - before - 1) % interval == 0)


@pytest.mark.parametrize("interval, before, order", [(5, 3, 1), (3, 2, 2), (4, 1, 3), (2, 2, 1)])
def test_taylorseer_as_published_is_that_of_diffusers(interval, before, order):
    job = task()
    config = hooks.TaylorSeerCacheConfig(cache_interval=interval, disable_cache_before_step=before, max_order=order,
                                         taylor_factors_dtype=torch.float32, cache_identifiers=[bench.BRANCHES])  # fmt: skip
    said = theirs(job, hooks.apply_taylorseer_cache, config)
    full = full_of_theirs(interval, before)
    mine, run = ours(job, TaylorSeer(interval, order, before, faithful=True, full_at=full))
    assert near(mine, said)
    assert run.record.computed_at["transformer_blocks.0.attn1/branch"] == len(full) < STEPS
    newton, _ = ours(job, TaylorSeer(interval, order, before, full_at=full))
    assert order == 1 or not near(newton, said)


def test_at_interval_two_the_schedules_are_one():
    assert full_of_theirs(2, 3) == (0, 1, 2, 4, 6, 8, 10, 12)
    job, config = task(), hooks.TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=3, max_order=1,
                                                      taylor_factors_dtype=torch.float32,
                                                      cache_identifiers=[bench.BRANCHES])  # fmt: skip
    said = theirs(job, hooks.apply_taylorseer_cache, config)
    assert near(ours(job, TaylorSeer(2, 1, 3, faithful=True))[0], said)


@pytest.mark.parametrize("threshold, retain, limit", [(0.06, 0.2, 3), (0.12, 0.2, 2), (1.0, 0.1, 3)])
def test_magcache_is_that_of_diffusers(threshold, retain, limit):
    """The same evaluations are skipped, and the same comes out, with ratios of another number of steps."""
    ratios = tuple(hooks.mag_cache.FLUX_MAG_RATIOS.tolist())
    config = hooks.MagCacheConfig(threshold, limit, retain, STEPS, list(ratios))
    assert torch.allclose(config.mag_ratios, torch.tensor(resampled(ratios, STEPS, True)))
    job = task()
    said = theirs(job, hooks.apply_mag_cache, config)
    mine, run = ours(job, MagCache(threshold, limit, retain, ratios, faithful=True))
    assert near(mine, said)
    assert 0 < run.record.facts["magcache"]["cond"]["evaluations_skipped"] < STEPS


def test_firstblock_of_one_sample_is_that_of_diffusers():
    """Theirs decides for the batch, ours for each sample, so they are one where the batch is one."""
    job = task(batch=1)
    for threshold in (0.15, 0.3):
        said = theirs(job, hooks.apply_first_block_cache, hooks.FirstBlockCacheConfig(threshold=threshold))
        mine, run = ours(job, FirstBlock(threshold))
        assert near(mine, said) and run.record.facts["firstblock"]["cond"]["samples_skipped"] > 0


def test_attention_broadcast_is_a_forecast_of_order_zero():
    """Pyramid attention broadcast with one range is reuse of the attention branch in every second evaluation."""
    now = {"t": 0.0}
    config = hooks.PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2,
                                                   spatial_attention_timestep_skip_range=(100, 800),
                                                   current_timestep_callback=lambda: now["t"])  # fmt: skip
    job = task()
    said = theirs(job, hooks.apply_pyramid_attention_broadcast, config, now)
    inside = [100 < 1000 * (1 - k / STEPS) < 800 for k in range(STEPS)]
    full = tuple(k for k in range(STEPS) if k % 2 == 0 or not inside[k])
    mine, _ = ours(job, TaylorSeer(2, 0, 1, roles=("attention",), full_at=full))
    assert near(mine, said)


def test_all_peers_run_on_one_task():
    job = task(steps=6, scale=2.0)
    start = job.start.clone()
    found = bench.peers(job, ratios=[1.0] + [0.97] * 5, tries=1)
    assert set(found) == set(bench.PEERS)
    mine = bench.own(job, {"reuse": TaylorSeer(2, 0, 1), "never": TaylorSeer(1)}, tries=1)
    assert mine["never"].distance == 0 and mine["never"].cost == 1 and mine["reuse"].cost < 0.8
    for peer in (*found.values(), *mine.values()):
        assert peer.x.isfinite().all() and peer.distance < 0.5 and 0 < peer.cost <= 1.01 and peer.seconds > 0
    assert torch.equal(job.start, start) and not any("forward" in m.__dict__ for m in job.net.modules())


def test_ratios_of_a_network_are_those_that_diffusers_calibrates():
    import copy

    job = task(steps=6)
    net = copy.deepcopy(job.net)
    config = hooks.MagCacheConfig(num_inference_steps=7, calibrate=True)  # one step more, as it forgets at the last
    config.now = {"t": 0.0}
    hooks.apply_mag_cache(net, config)
    states = {id(h): h for m in net.modules() if hasattr(m, "_diffusers_hook") for h in m._diffusers_hook.hooks.values()}
    bench._walk(job, net, lambda: bench._theirs(net, config))
    seen = next(h.state_manager._state_cache["cond"].calibration_ratios for h in states.values() if hasattr(h, "state_manager"))
    mine = bench.measured_ratios(job)
    assert mine == pytest.approx(seen, rel=1e-4) and max(abs(r - 1) for r in mine) > 1e-3


def test_the_guided_walk_has_fastercache_alone_where_asked():
    found = bench.peers(task(steps=4, scale=2.0), tries=1, only=("FasterCache",))
    assert set(found) == {"FasterCache"}
    assert "FasterCache" not in bench.configured(task(steps=4)) and "MagCache" in bench.configured(task(steps=4), [1.0] * 4)


def test_the_benchmark_asks_all_caches_of_diffusers(monkeypatch):
    from ornstein import bench_acceleration

    full = bench.task
    monkeypatch.setattr(bench, "task", lambda steps: full(layers=2, width=16, size=4, batch=1, steps=steps))
    lines = bench_acceleration.peer_lines(bench_acceleration.Settings(6, 1, 1, ("magcache",)))
    theirs = {line.name for line in lines if line.whose == "diffusers"}
    assert theirs == {*bench.PEERS} - {"FasterCache"} | {"FasterCache, guided"}
    assert [line.name for line in lines if line.whose == "ornstein"] == ["magcache, measured ratios"]
    assert all(0 < line.flops <= 1.001 for line in lines)

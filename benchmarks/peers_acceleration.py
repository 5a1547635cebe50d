"""The caches of the packages cache-dit and DeepCache beside ours: error, blocks computed, seconds, and neighbours.

python benchmarks/peers_acceleration.py [--batch 4] [--steps 20] [--repeats 5] [--larger] [--json FILE] [--out FILE.md]

On one DiT of diffusers with random weights, the same start and Euler steps. A package that is not installed is left out,
and the table says so. What is computed is counted in FLOPs as they are done, so that parts that skip a branch, a block or
some of the samples are counted alike.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from interleaved import measure, report, written
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ornstein.bridges.layers.caches import Task, task
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.seam import Run, attach, calling, running

INTERVAL, WARMUP, THRESHOLD = 3, 2, 0.25  # the schedule of all that have one; the gate of all that have one


@dataclass(frozen=True)
class Contestant:
    """name; whose; make(network, steps): attaches, and hands back what must be called before every walk."""

    name: str
    whose: str
    make: Callable[[nn.Module, int], Callable[[], None]]


def walk(job: Task, net: nn.Module) -> Tensor:
    """Euler from t = 1 to 0; the network says the velocity. Ours finds its run around it, theirs needs none."""
    x, ids = job.start, tuple(range(job.rows))
    with torch.no_grad(), running(Run()):
        for step in range(job.steps):
            t = 1 - step / job.steps
            with calling(Clock(step, 0, job.steps, t, "cond", ids)):
                x = x - net(x, torch.full((len(x),), 1000 * t), job.labels, return_dict=False)[0] / job.steps
    return x


def counted(job: Task, net: nn.Module) -> tuple[Tensor, int]:
    """What the walk gives, and the FLOPs that were done (fused attention is not counted)."""
    with FlopCounterMode(display=False) as counter:
        x = walk(job, net)
    return x, counter.get_total_flops()


def scheduled(steps: int) -> tuple[int, ...]:
    """Evaluations that are full: the warm-up, then every third."""
    return tuple(k for k in range(steps) if k < WARMUP or (k - WARMUP) % INTERVAL == INTERVAL - 1)


def denser(steps: int, layers: int) -> tuple[int, ...]:
    """As many full evaluations, spread evenly after the warm-up, as the schedule costs with one block in all the others."""
    full = len(scheduled(steps))
    more = round(full + (steps - full) / layers) - WARMUP
    return (*range(WARMUP), *(WARMUP + round((k + 1) * (steps - WARMUP) / more) - 1 for k in range(more)))


def ours(text: str | Callable[[int, int], dict]) -> Callable[[nn.Module, int], Callable[[], None]]:
    def make(net: nn.Module, steps: int) -> Callable[[], None]:
        attach(net, catalog.build("acceleration", text if isinstance(text, str) else text(steps, len(net.transformer_blocks))))
        return lambda: None

    return make


def dbcache(order: int = 0, last: int = 0, gated: bool = False) -> Callable[[nn.Module, int], Callable[[], None]]:
    """DBCache with one first block and `last` last ones; order: of its TaylorSeer, 0 none; gated: by its threshold, else on
    the schedule."""

    def make(net: nn.Module, steps: int) -> Callable[[], None]:
        import cache_dit
        from cache_dit.caching.patch_functors.functor_dit import DiTPatchFunctor

        full = set(scheduled(steps))
        when = {} if gated else {"steps_computation_mask": [int(k in full) for k in range(steps)],
                                 "steps_computation_policy": "static"}  # fmt: skip
        config = cache_dit.DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=last, max_warmup_steps=WARMUP,
                                         residual_diff_threshold=THRESHOLD, num_inference_steps=steps, **when)  # fmt: skip
        taylor = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
        adapter = cache_dit.BlockAdapter(transformer=net, blocks=net.transformer_blocks, has_separate_cfg=False,
                                         forward_pattern=cache_dit.ForwardPattern.Pattern_3, check_forward_pattern=False,
                                         patch_functor=DiTPatchFunctor())  # fmt: skip
        cache_dit.enable_cache(adapter, cache_config=config, calibrator_config=taylor)
        return lambda: cache_dit.refresh_context(net, num_inference_steps=steps)

    return make


def contestants() -> list[Contestant]:
    seer = lambda order, grain, when: ours(lambda n, layers: {"name": "taylorseer", "order": order, "grain": grain,  # noqa: E731
                                                              "full_at": when(n, layers)})  # fmt: skip
    grains = ("branch", ""), ("trunk", ", trunk")
    found = [Contestant(f"taylorseer, order {order}{said}{more}", "ornstein", seer(order, grain, when)) for order in (1, 2)
             for grain, said in grains for more, when in (("", lambda n, layers: scheduled(n)), (", denser", denser))]  # fmt: skip
    found += [Contestant("taylorseer, order 2, sparser", "ornstein", ours(f"taylorseer:interval=5,order=2,warmup={WARMUP}"))]
    found += [Contestant("firstblock", "ornstein", ours(f"firstblock:threshold={THRESHOLD},warmup={WARMUP}"))]
    if importlib.util.find_spec("cache_dit"):
        found += [Contestant("DBCache F1B0, threshold", "cache-dit", dbcache(gated=True)),
                  Contestant("DBCache F1B0", "cache-dit", dbcache()),
                  Contestant("DBCache F1B0 and TaylorSeer, order 1", "cache-dit", dbcache(1)),
                  Contestant("DBCache F1B0 and TaylorSeer, order 2", "cache-dit", dbcache(2)),
                  Contestant("DBCache F1B1", "cache-dit", dbcache(last=1))]  # fmt: skip
    return found


def alone(job: Task, one: Contestant, together: Tensor) -> float:
    """The largest relative distance of a sample drawn alone to the same sample in the batch."""
    gaps = []
    for k in range(len(job.start)):
        single = replace(job, start=job.start[k : k + 1], labels=job.labels[k : k + 1])
        net = copy.deepcopy(job.net)
        one.make(net, job.steps)()
        gaps.append(float((walk(single, net) - together[k]).norm() / together[k].norm()))
    return max(gaps)


def compared(job: Task, repeats: int) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """One line per contestant, and the seconds of all, interleaved; 'full' is the walk without a cache."""
    (full, whole), lines, ways = counted(job, job.net), [], {"full": lambda: walk(job, job.net)}
    for one in contestants():
        net = copy.deepcopy(job.net)
        begin = one.make(net, job.steps)
        begin()
        x, done = counted(job, net)
        cost = job.steps * done / whole
        fewer = replace(job, steps=max(1, round(cost)))
        lines.append({"cache": one.name, "of": one.whose, "evaluations": cost, "distance": float((x - full).norm() / full.norm()),
                      "fewer steps": float((walk(fewer, job.net) - full).norm() / full.norm()), "alone": alone(job, one, x)})

        def timed(net: nn.Module = net, begin: Callable[[], None] = begin) -> None:
            begin()
            walk(job, net)

        ways[f"{one.name} ({one.whose})"] = timed
    return lines, measure(ways, repeats, 1)


def table(job: Task, lines: list[dict[str, Any]], seconds: dict[str, list[float]]) -> list[str]:
    ratios = {n: statistics.median(a / b for a, b in zip(v, seconds["full"])) for n, v in seconds.items()}
    text = [f"## {len(job.net.transformer_blocks)} blocks of width {job.net.inner_dim}", "",
            "| cache | of | evaluations | distance | fewer steps | alone | seconds |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for line in sorted(lines, key=lambda v: v["distance"]):
        text.append(f"| {line['cache']} | {line['of']} | {line['evaluations']:.1f} | {line['distance']:.3g} | "
                    f"{line['fewer steps']:.3g} | {line['alone']:.1g} | {ratios[line['cache'] + ' (' + line['of'] + ')']:.2f} |")
    return [*text, ""]


def page(found: list[tuple[Task, list[dict[str, Any]], dict[str, list[float]]]]) -> str:
    job = found[0][0]
    text = ["# Caches of other packages beside ours", "",
            f"`python benchmarks/peers_acceleration.py {'--larger ' if len(found) > 1 else ''}--out docs/benchmarks/peers.md`, one "
            "thread of a machine with two CPU cores that others used too. DiTs of diffusers, random weights of 1 / sqrt(width), "
            f"{len(job.start)} samples, {job.steps} Euler steps. Evaluations: FLOPs over those of one evaluation. Distance: "
            "relative L2 to the full walk; of fewer steps: that of the plain walk with as many evaluations, rounded. Alone: the "
            "largest relative distance of a sample drawn alone to itself in the batch; rounding is some 1e-7. Seconds over those "
            "of the full walk: a small network shows what a cache adds to it, a larger one what it saves. The parts with a "
            f"schedule compute evaluations 0 to {WARMUP - 1} and then every third ('denser': as many as DBCache's first blocks pay "
            f"for; 'sparser': every fifth); the others skip where the first residual moved less than {THRESHOLD:g}. TaylorSeer of "
            "ours forecasts each branch of each block by itself, and computes modulations, gates and norms anew; with the grain "
            "'trunk' it forecasts what all blocks together add, and that of cache-dit what all but the first add.", ""]  # fmt: skip
    text += [line for one in found for line in table(*one)]
    absent = [p for p in ("cache_dit", "DeepCache") if not importlib.util.find_spec(p)]
    text += [*[f"Not installed here, so not in the tables: {', '.join(absent)}." for _ in absent[:1]],
             "`tests/acceleration/test_peers_packages.py` holds ours against theirs where the rules are the same: `deepcache` is "
             "the DeepCache package with `cache_branch_id = 3 (branch - 1) + 2` (1e-5), and `firstblock` is DBCache F1B0 where the "
             "batch is one (1e-5). With more samples they part: DBCache decides for the whole batch, `firstblock` for each "
             "sample. A walk of DBCache outside of a pipeline must be begun with `refresh_context`, or it goes on with what the "
             "last one left; ours finds its run by itself.", ""]  # fmt: skip
    return "\n".join(text)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    for name, default in (("batch", 4), ("steps", 20), ("repeats", 5), ("layers", 6), ("width", 64)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--larger", action="store_true", help="also 12 blocks of width 256, with three turns")
    ask.add_argument("--json", type=Path)
    ask.add_argument("--out", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # what cache-dit says of every step of its own
    found = []
    for layers, width, repeats in [(a.layers, a.width, a.repeats)] + [(12, 256, min(a.repeats, 3))] * a.larger:
        job = task(layers=layers, width=width, size=16, batch=a.batch, steps=a.steps)
        for p in job.net.parameters():
            p.data *= (64 / width) ** 0.5  # a wider network answers as calmly as the narrow one
        found.append((job, *compared(job, repeats)))
    if a.out:
        a.out.write_text(page(found), encoding="utf-8")
    title = f"caches of other packages, batch {a.batch}, {a.steps} steps"
    written(a.json, [report(f"{title}, {len(job.net.transformer_blocks)} blocks", seconds, "full", {}, lines=lines)
                     for job, lines, seconds in found])  # fmt: skip


if __name__ == "__main__":
    main()

"""The caches of diffusers beside ours, on one transformer, with the same weights, start and steps.

Each walks the same Euler steps of a linear flow; its FLOPs are counted as they are done, and its seconds taken on the
machine at hand. With guidance both branches lie in one batch, null half first, which is what FasterCache wants.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ornstein.core.clock import Clock
from ornstein.core.seam import Run, attach, calling, running
from ornstein.cost import now

__all__ = ["PEERS", "Peer", "Task", "configured", "measured_ratios", "own", "peers", "task"]

PEERS = ("FirstBlockCache", "TaylorSeer", "MagCache", "FasterCache", "PyramidAttentionBroadcast")
BRANCHES = r"transformer_blocks\.\d+\.(attn1|ff)"  # attention and mlp, as ours; the default pattern fits none of a DiT's


@dataclass(frozen=True)
class Task:
    """One thing to draw. start: [B, ...]; labels: [B], of a network of classes; given: what else the network is told, the same in
    each step; unit: what it is told of t = 1; scale: of guidance, 1 asks the conditional branch alone."""

    net: nn.Module
    start: Tensor
    labels: Tensor | None
    steps: int = 20
    scale: float = 1.0
    given: Mapping[str, Any] = field(default_factory=dict)
    unit: float = 1000.0

    @property
    def rows(self) -> int:
        """Of the batch that the network sees."""
        return len(self.start) * (1 if self.scale == 1 else 2)


@dataclass(frozen=True)
class Peer:
    """What one cache made. x: [B, C, H, W]; distance: relative L2 to the full walk; cost: FLOPs over those of the full
    walk; seconds: of one walk, the median of the tries; gain: seconds of the full walk over these, tries interleaved."""

    name: str
    x: Tensor
    distance: float
    cost: float
    seconds: float
    gain: float


def task(layers: int = 6, width: int = 64, size: int = 16, batch: int = 4, steps: int = 20, scale: float = 1.0,
         seed: int = 0) -> Task:  # fmt: skip
    """A DiT of diffusers with random weights that changes slowly with time, and noise to start from."""
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=width // 4, in_channels=4, out_channels=4,
                                num_layers=layers, sample_size=size, norm_num_groups=4, num_embeds_ada_norm=10)  # fmt: skip
    source = torch.Generator().manual_seed(seed)
    for key, parameter in net.named_parameters():
        std = 0.03 if "timestep_embedder" in key else 0.08
        parameter.data = torch.randn(parameter.shape, generator=source) * std
    start = torch.randn(batch, 4, size, size, generator=source)
    return Task(net.eval().requires_grad_(False), start, torch.arange(batch) % 10, steps, scale)


def configured(task: Task, ratios: Sequence[float] = ()) -> dict[str, tuple[Callable, Any]]:
    """Name -> how diffusers applies it, and its configuration. ratios: for MagCache, one per step; () leaves it out."""
    from diffusers import hooks

    now = {"t": 1000.0}  # the caches with ranges of timesteps ask where the walk stands
    made: dict[str, tuple[Callable, Any]] = {
        "FirstBlockCache": (hooks.apply_first_block_cache, hooks.FirstBlockCacheConfig(threshold=0.1)),
        "TaylorSeer": (hooks.apply_taylorseer_cache, hooks.TaylorSeerCacheConfig(
            cache_interval=3, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=torch.float32,
            cache_identifiers=[BRANCHES])),
        "PyramidAttentionBroadcast": (hooks.apply_pyramid_attention_broadcast, hooks.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=lambda: now["t"])),
    }  # fmt: skip
    if ratios:
        made["MagCache"] = hooks.apply_mag_cache, hooks.MagCacheConfig(num_inference_steps=task.steps, mag_ratios=list(ratios))
    if task.scale != 1:
        made["FasterCache"] = hooks.apply_faster_cache, hooks.FasterCacheConfig(
            tensor_format="BCHW", current_timestep_callback=lambda: now["t"], attention_weight_callback=lambda _: 0.5,
            _unconditional_conditional_input_kwargs_identifiers=["hidden_states", "timestep", "class_labels"])  # fmt: skip
    for _, config in made.values():
        config.now = now
    return made


def measured_ratios(task: Task) -> tuple[float, ...]:
    """What MagCache wants of a network: how much the blocks' residual grows from one step of the full walk to the next."""
    from ornstein.acceleration.magcache import Growth

    watch, net = Growth([]), copy.deepcopy(task.net)
    attach(net, watch)
    _walk(task, net, lambda: _ours(task))
    return tuple(watch.seen)


def peers(task: Task, ratios: Sequence[float] = (), tries: int = 3, only: Sequence[str] = ()) -> dict[str, Peer]:
    """The caches of diffusers at their defaults, as far as they fit, or of these `only` the named; each on a copy of the
    network."""
    found = {}
    for name, (apply, config) in configured(task, ratios).items():
        if only and name not in only:
            continue
        net = copy.deepcopy(task.net)
        apply(net, config)
        found[name] = _measured(name, task, net, lambda net=net, config=config: _theirs(net, config), tries)
    return found


def own(task: Task, plugins: Mapping[str, Any], tries: int = 3) -> dict[str, Peer]:
    """Our plugins by name, each attached for its walks alone."""
    found = {}
    for name, plugin in plugins.items():
        net = copy.deepcopy(task.net)
        attach(net, plugin)
        found[name] = _measured(name, task, net, lambda: _ours(task), tries)
    return found


Place = Callable[[int, float], AbstractContextManager]  # (step, t) -> what surrounds the network's call


@contextmanager
def _theirs(net: nn.Module, config: Any) -> Any:
    from diffusers.hooks import HookRegistry
    from diffusers.models.cache_utils import CacheMixin

    def place(step: int, t: float) -> AbstractContextManager:
        config.now["t"] = 1000 * t
        return CacheMixin.cache_context(net, "cond")

    HookRegistry.check_if_exists_or_initialize(net).reset_stateful_hooks(recurse=True)
    yield place


@contextmanager
def _ours(task: Task, run: Run | None = None) -> Any:
    with running(run or Run()):
        yield lambda step, t: calling(Clock(step, 0, task.steps, t, "cond", tuple(range(task.rows))))


def _measured(name: str, task: Task, net: nn.Module, begin: Callable[[], AbstractContextManager], tries: int) -> Peer:
    full, whole, x, done = *_counted(task, task.net, _plain), *_counted(task, net, begin)
    spent: list[list[float]] = [[], []]
    for _ in range(tries):
        for k, (n, b) in enumerate(((task.net, _plain), (net, begin))):
            began = now(x.device)
            _walk(task, n, b)
            spent[k].append(now(x.device) - began)
    theirs, plain = statistics.median(spent[1]), statistics.median(spent[0])
    return Peer(name, x, float((x - full).norm() / full.norm()), done / whole, theirs, plain / theirs)


def _counted(task: Task, net: nn.Module, begin: Callable[[], AbstractContextManager]) -> tuple[Tensor, int]:
    with FlopCounterMode(display=False) as counter:
        x = _walk(task, net, begin)
    return x, counter.get_total_flops()


def _plain() -> AbstractContextManager:
    return nullcontext(lambda step, t: nullcontext())


@torch.no_grad()
def _walk(task: Task, net: nn.Module, begin: Callable[[], AbstractContextManager]) -> Tensor:
    """Euler from t = 1 to 0; the network says the velocity."""
    x, guided, given = task.start, task.scale != 1, dict(task.given)
    if task.labels is not None:
        given["class_labels"] = torch.cat([torch.full_like(task.labels, 10), task.labels]) if guided else task.labels
    with begin() as place:
        for step in range(task.steps):
            t = 1 - step / task.steps
            seen = torch.cat([x, x]) if guided else x
            with place(step, t):
                told = torch.full((len(seen),), task.unit * t, device=x.device)
                v = net(hidden_states=seen, timestep=told.to(x.dtype), return_dict=False, **given)[0]
            if guided:
                null, said = v.chunk(2)
                v = null + task.scale * (said - null)
            x = x - v[:, : x.shape[1]] / task.steps if v.shape != x.shape else x - v / task.steps  # without a learned variance
    return x

"""The seam: plugins around the sites of a network, attached to any nn.Module and taken off again without a trace.

A plugin is asked at each of its sites, once per network call, and may compute, replace, mix or read. Its memory belongs to
the run in progress, which is found through a context variable, and is keyed by branch and by the ids of the samples: threads
and requests may share one attached model. Outside of a run an attached model behaves as if nothing were attached.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass, replace
from types import MethodType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .clock import Clock
from .effects import Effects, conflict
from .errors import OrnsteinError
from .record import Record
from .sites import Seat, Site, find_sites

__all__ = ["Call", "Plugin", "Run", "attach", "attention_lse", "calling", "current", "gather", "running"]

Streams = dict[str, Any]  # name -> tensor [B, ...], tuple of tensors, or None


class Plugin(Protocol):
    """A part that sits at sites. `grain` and `effects` are class attributes or fields."""

    effects: Effects

    def select(self, sites: Sequence[Site]) -> Sequence[Site]:
        """The sites it wants, of all that the network has. None is an error that says so."""

    def start(self) -> Any:
        """Fresh memory for one branch of one batch of one run; tensors in it have the samples first."""

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: Any) -> Streams:
        """What leaves the site. `run(streams)` computes it; `run(streams, rows)` for those rows alone."""


class Run:
    """What belongs to one run: the memories of plugins and the record. scope: the mark under which plugins were attached
    for this run alone; plugins attached without a scope serve every run."""

    def __init__(self, record: Record | None = None, scope: object = None) -> None:
        self.memories: dict[tuple, Any] = {}
        self.scope = scope
        self.record = record or Record()

    def memory(self, plugin: Plugin, clock: Clock, network: int = 0) -> Any:
        """What a plugin remembers of these rows on this branch of this network (a mark of its seam)."""
        key = (id(plugin), clock.branch, clock.ids, network)
        memory = self.memories.get(key)
        if memory is None:
            memory = self.memories[key] = plugin.start()
        return memory

    def gather(self, index: Tensor, before: tuple, after: tuple) -> None:
        """Follow a resampling: rows `index` of the batch `before` are now the batch `after`. What was remembered of parts
        of the batch, or of its windows, is dropped."""
        known = set(before)
        for key in [k for k in self.memories if _about(k[2], known)]:
            memory = self.memories.pop(key)
            if key[2] == before:
                self.memories[(*key[:2], after, key[3])] = gather(memory, index, len(before))

    def forget(self, ids: tuple) -> None:
        """Drop what plugins remember of one batch: its trajectory is over, or begins anew."""
        known = set(ids)
        for key in [k for k in self.memories if _about(k[2], known)]:
            del self.memories[key]

    def clear(self) -> None:
        """Forget everything: after a rewind, what plugins remember is of another trajectory."""
        self.memories.clear()


def _about(ids: tuple, known: set) -> bool:
    """Whether some rows are of the batch: as they are, or as parts of one ((id, window), ...)."""
    return any(i in known or (isinstance(i, tuple) and i[0] in known) for i in ids)


_RUN: ContextVar[Run | None] = ContextVar("ornstein_run", default=None)
_CLOCK: ContextVar[Clock | None] = ContextVar("ornstein_clock", default=None)


class _Setting:
    """A context that sets a variable and always restores it."""

    __slots__ = ("token", "value", "variable")

    def __init__(self, variable: ContextVar, value: Any) -> None:
        self.variable, self.value = variable, value

    def __enter__(self) -> Any:
        self.token = self.variable.set(self.value)
        return self.value

    def __exit__(self, *exc: object) -> None:
        self.variable.reset(self.token)


def current() -> Run | None:
    """The run in progress here, or None: for parts that are no plugins and yet remember something of their samples."""
    return _RUN.get()


def running(run: Run) -> _Setting:
    """with running(Run()): the network calls inside belong to this run."""
    return _Setting(_RUN, run)


def calling(clock: Clock | None) -> _Setting:
    """with calling(clock): the network call inside stands at this clock. The denoiser does this."""
    run = _RUN.get()
    if run is not None and clock is not None:
        run.record.calls[clock.branch] += 1
    return _Setting(_CLOCK, clock)


def gather(tree: Any, index: Tensor, batch: int, rank: int = 1, special: Callable[[Any], Any] | None = None) -> Any:
    """Rows `index` of every tensor of at least `rank` axes whose first is `batch`, in a nest of containers and dataclasses.
    special: takes a node and hands back what shall stand in its place, or None to go on into it."""
    if special is not None and (instead := special(tree)) is not None:
        return instead
    if isinstance(tree, Tensor):
        return tree[index.to(tree.device)] if tree.ndim >= rank and tree.shape[0] == batch else tree
    if isinstance(tree, dict):
        return {k: gather(v, index, batch, rank, special) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(gather(v, index, batch, rank, special) for v in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{k: gather(v, index, batch, rank, special) for k, v in vars(tree).items()})
    return tree


class Call:
    """The computation of a site, bound to its other arguments (`bound`, by name). Calling it runs what lies inside."""

    __slots__ = ("bound", "clock", "depth", "done", "inner", "network", "plugins", "run", "site")

    def __init__(self, site: Site, clock: Clock, run: Run, plugins: tuple, bound: dict, inner: Callable, network: int,
                 depth: int = 0) -> None:  # fmt: skip
        self.site, self.clock, self.run, self.plugins, self.bound, self.inner = site, clock, run, plugins, bound, inner
        self.network, self.depth, self.done = network, depth, 0.0  # done: share of the rows that was asked for so far

    def __call__(self, streams: Streams, rows: Tensor | None = None) -> Streams:
        clock, bound = self.clock, self.bound
        if rows is None:
            self.done = 1.0
            return self._next(streams, clock, bound)
        batch = next(len(v) for v in streams.values() if isinstance(v, Tensor))
        streams, bound = _rows(streams, rows, batch), _rows(bound, rows, batch)
        self.done += len(rows) / batch
        ids = tuple(clock.ids[i] for i in rows.tolist()) if len(clock.ids) == batch else clock.ids
        clock = replace(clock, ids=ids, t=gather(clock.t, rows, batch), share=clock.share * len(rows) / batch)
        with _Setting(_CLOCK, clock):  # the sites inside are asked about these rows alone
            return self._next(streams, clock, bound)

    def _next(self, streams: Streams, clock: Clock, bound: dict) -> Streams:
        if self.depth < len(self.plugins):
            plugin = self.plugins[self.depth]
            nxt = Call(self.site, clock, self.run, self.plugins, bound, self.inner, self.network, self.depth + 1)
            answer = plugin.around(self.site, clock, streams, nxt, self.run.memory(plugin, clock, self.network))
            self.run.record.answered(plugin, clock, nxt.done)
            return answer
        self.run.record.computed(self.site, clock)
        return self.inner({**bound, **streams})


# arguments that are not per sample, unless they have three axes (rotary tables: [N, d] for all, or [B, N, d])
_SHARED = ("rotary", "freqs", "pos", "ids", "shape", "size", "height", "width")


def _rows(values: Mapping[str, Any], rows: Tensor, batch: int) -> dict[str, Any]:
    return {k: gather(v, rows, batch, 3 if any(w in k for w in _SHARED) else 1) for k, v in values.items()}


class Seam:
    """The plugins attached to one network. Held beside the network, never on it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = weakref.ref(model)
        self.lock = threading.Lock()
        self.owners: list[tuple[Plugin, tuple[Site, ...], object]] = []
        self.wrapped: dict[str, tuple[weakref.ref, Any]] = {}
        self.packs: dict[str, dict[tuple, Callable]] = {}  # site -> kind and names of an answer -> how to give it

    def plugins(self, site: Site) -> tuple[tuple[Plugin, object], ...]:
        return tuple((p, scope) for p, sites, scope in self.owners if site in sites)

    def add(self, plugin: Plugin, sites: Sequence[Site], scope: object) -> None:
        for other, theirs, its in self.owners:
            together = scope is None or its is None or scope is its
            both = plugin.effects.replaces & other.effects.replaces if together else ()
            for mine in sites if both else ():
                for site in theirs:
                    if _overlap(mine.name, site.name):
                        raise conflict(plugin, other, f"{', '.join(sorted(both))} at site '{mine.name or 'network'}'")
        self.owners.append((plugin, tuple(sites), scope))

    def refresh(self) -> None:
        """Wrap exactly the modules whose sites have plugins."""
        by_module: dict[str, list[Site]] = {}
        for _, sites, _ in self.owners:
            for site in sites:
                if site not in by_module.setdefault(site.name, []):
                    by_module[site.name].append(site)
        wrapped = {}
        for name, sites in by_module.items():
            module = self.model().get_submodule(name)
            _, before = wrapped[name] = self.wrapped.get(name) or (weakref.ref(module), module.__dict__.get("forward"))
            forward = before or MethodType(type(module).forward, module)
            for site in sorted(sites, key=lambda s: s.grain != "attention"):  # attention innermost
                around = _around_attention if site.grain == "attention" else _around
                call = around(forward, site, self.plugins(site), self.packs.setdefault(name, {}), id(self))
                forward = _Wrapped(module, forward, call)
            module.forward = forward  # at once: a run on another thread meets the old one or the new one, never none
        for reference, before in (v for name, v in self.wrapped.items() if name not in wrapped):
            if (module := reference()) is None:
                continue
            module.__dict__.pop("forward", None)
            module.__dict__.update({"forward": before} if before else {})
        self.wrapped = wrapped


def _overlap(one: str, other: str) -> bool:
    return one == other or not one or not other or one.startswith(other + ".") or other.startswith(one + ".")


def _active(run: Run | None, clock: Clock | None, plugins: tuple[tuple[Plugin, object], ...]) -> tuple[Plugin, ...]:
    """The plugins of a site that take part in this call."""
    if run is None or clock is None:
        return ()
    return tuple([p for p, scope in plugins if scope is None or scope is run.scope])


class _Wrapped:
    """A module's forward while plugins sit on it. A deep copy of the module has its plain forward, without plugins."""

    def __init__(self, module: nn.Module, forward: Callable, call: Callable) -> None:
        self.module, self.call, self.__signature__ = module, call, inspect.signature(forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def __deepcopy__(self, memo: dict) -> Callable:
        return MethodType(type(self.module).forward, memo[id(self.module)])


def _around(forward: Callable, site: Site, plugins: tuple, packs: dict[tuple, Callable], network: int) -> Callable:
    names = [p.name for p in inspect.signature(forward).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    outputs = {len(group): group for group in site.streams}
    residual = {n for group in site.streams for n in group}
    residual = [n for n in names if n in residual] or names[:1]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        run, clock = _RUN.get(), _CLOCK.get()
        live = _active(run, clock, plugins)
        if not live:
            return forward(*args, **kwargs)
        bound, rest = dict(zip(names, args), **kwargs), args[len(names) :]
        streams = {n: bound.pop(n) for n in residual if n in bound}
        kind = bound.get("return_dict")

        def compute(bound: dict[str, Any]) -> Streams:
            first = [bound.pop(n) for n in names] if rest else []
            streams, pack = _unpack(forward(*first, *rest, **bound), outputs)
            packs[kind, _present(streams)] = pack
            return streams

        run.record.asked(site, clock)
        answer = Call(site, clock, run, live, bound, compute, network)._next(streams, clock, bound)
        pack = packs.get((kind, _present(answer)))
        return pack(answer) if pack else _packed(answer, site, "return_dict" in names)

    return wrapped


def _present(streams: Streams) -> frozenset[str]:
    return frozenset([k for k, v in streams.items() if v is not None])


def _packed(streams: Streams, site: Site, foreign: bool) -> Any:
    """An answer that was never computed, as the module would give it."""
    full = [g for g in site.streams if all(n in streams for n in g)]
    best = max(full, key=lambda g: (all(streams[n] is not None for n in g), len(g)), default=None)
    if best is None or (foreign and site.grain == "network"):
        names = " or ".join(", ".join(g) for g in site.streams)
        place = f"the site '{site.name or 'network'}'"
        what = f"{place} was skipped before it was ever computed, with the streams {', '.join(streams)}"
        raise OrnsteinError(what, f"It must hand on {names}: compute it once, or fill them all.")
    return streams[best[0]] if len(best) == 1 else tuple(streams[n] for n in best)


def _unpack(result: Any, names: Mapping[int, tuple[str, ...]]) -> tuple[Streams, Callable]:
    """A module's answer as named streams, and the function that turns such streams back into an answer of its kind; it
    is kept for skipped calls, so it holds none of the answer's tensors."""
    key = (names.get(1) or ("out",))[0]
    if isinstance(result, Tensor):
        return {key: result}, lambda s: s[key]
    form = type(result)
    if isinstance(result, dict):  # a foreign output record: its first field is the answer
        fields = {key if i == 0 else k: k for i, k in enumerate(result)}
        return {n: result[k] for n, k in fields.items()}, lambda s: form(**{k: s[n] for n, k in fields.items()})
    if is_dataclass(result) and hasattr(result, "value"):
        rest = {f.name: f.name for f in dataclass_fields(result) if f.name != "value"}
        streams = {"out": result.value} | {n: getattr(result, n) for n in rest}
        return streams, lambda s: form(s["out"], **{n: s[n] for n in rest if n in s})
    if isinstance(result, (tuple, list)):
        keys = names.get(len(result)) or tuple(f"out{i}" for i in range(len(result)))
        return dict(zip(keys, result)), lambda s: form(s.get(k) for k in keys)
    return {key: result}, lambda s: s[key]


class _Intercept(TorchFunctionMode):
    """Hands every scaled-dot-product attention inside a module to the plugins as q, k, v, mask [B, heads, N, d].

    run.bound has the module's other arguments under 'arguments' (rotary tables and positions among them). A plugin that
    hands on a stream 'lse' of None gets the log-sum-exp of the scores [B, heads, N] with the answer, from the un-fused path.
    """

    def __init__(self, site: Site, plugins: tuple, run: Run, clock: Clock, network: int, arguments: dict) -> None:
        super().__init__()
        self.site, self.plugins, self.run, self.clock, self.seen = site, plugins, run, clock, 0
        self.network, self.arguments = network, arguments

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("q", "k", "v", "mask", "dropout_p", "is_causal")
        given = dict(zip(names, args)) | {{"query": "q", "key": "k", "value": "v", "attn_mask": "mask"}.get(k, k): v
                                          for k, v in kwargs.items()}  # fmt: skip
        streams = {k: given.pop(k, None) for k in names[:4]}
        # a second attention of one module (text, then image) is a place of its own, so that memories do not meet
        site = replace(self.site, name=f"{self.site.name}#{self.seen}") if self.seen else self.site
        self.seen += 1

        def attend(bound: dict[str, Any]) -> Streams:
            q, k, v, mask = (bound.pop(n) for n in names[:4])
            del bound["arguments"]
            if "lse" in bound:
                return dict(zip(("out", "lse"), attention_lse(q, k, v, mask)))
            return {"out": func(q, k, v, attn_mask=mask, **bound)}

        self.run.record.asked(site, self.clock)
        given["arguments"] = self.arguments
        return Call(site, self.clock, self.run, self.plugins, given, attend, self.network)(streams)["out"]


def _around_attention(forward: Callable, site: Site, plugins: tuple, packs: dict[tuple, Callable],
                      network: int) -> Callable:  # fmt: skip
    names = list(inspect.signature(forward).parameters)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        run, clock = _RUN.get(), _CLOCK.get()
        live = _active(run, clock, plugins)
        if not live:
            return forward(*args, **kwargs)
        with _Intercept(site, live, run, clock, network, {**dict(zip(names, args)), **kwargs}) as intercept:
            result = forward(*args, **kwargs)
        if not intercept.seen:
            raise OrnsteinError(f"the attention at '{site.name}' is not torch's scaled_dot_product_attention",
                                "Leave that site out, or switch the model to torch's attention.")  # fmt: skip
        return result

    return wrapped


def attention_lse(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention [B, H, N, d] with the log-sum-exp of its scores [B, H, N]: what merging partial attentions needs."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp() @ v, lse


_SEAMS: weakref.WeakKeyDictionary[nn.Module, Seam] = weakref.WeakKeyDictionary()


def attach(model: nn.Module, plugins: Plugin | Sequence[Plugin], seats: Mapping[str, Seat] | None = None,
           scope: object = None) -> Callable[[], None]:  # fmt: skip
    """Attach plugins to a network; hands back the function that detaches them, bit-exactly.

    seats: class name -> Seat for blocks that cannot be read. scope: a mark that limits the plugins to runs which carry it, so
    that requests with different plugins can share one model. Raises OrnsteinError where a plugin finds no site, or where
    two parts would decide the same thing at overlapping sites; then nothing is attached.
    """
    plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
    sites = find_sites(model, seats)
    seam = _SEAMS.setdefault(model, Seam(model))
    with seam.lock:
        before = list(seam.owners)
        try:
            for plugin in plugins:
                chosen = list(plugin.select(sites))
                if not chosen:
                    raise OrnsteinError(f"{type(plugin).__name__} would do nothing on {type(model).__name__}: no site fits it",
                                        "Sites: " + ", ".join(sorted({f"{s.grain}/{s.role}" for s in sites})) + ".")  # fmt: skip
                seam.add(plugin, chosen, scope)
        except OrnsteinError:
            seam.owners = before
            raise
        mine = seam.owners[len(before) :]
        seam.refresh()

    def detach() -> None:
        with seam.lock:
            seam.owners = [o for o in seam.owners if not any(o is m for m in mine)]
            seam.refresh()

    return detach

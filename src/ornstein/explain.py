"""A run or a plan in words: what was computed, reused and left out, what that saved, which parts did nothing, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import Plan

__all__ = ["differences", "explain_plan", "explain_run", "read"]

RECORD = "record.json"


def read(path: str | Path) -> tuple[str, Any]:
    """('run', its record) or ('plan', the Plan) of a folder of pictures, a record.json or a plan's file."""
    file = Path(path) / RECORD if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise OrnsteinError(f"there is no run or plan at {path}", f"Give a folder with {RECORD}, or a plan's JSON file.")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(told, dict) and {"steps", "calls", "asked"} <= set(told):
            return "run", told
    except (OSError, ValueError) as error:
        raise OrnsteinError(f"{file} cannot be read", "It must be a JSON file that ornstein wrote.") from error
    return "plan", Plan.load(file)


# ---- a run


def explain_run(told: Mapping[str, Any], cost: Any = None) -> list[str]:
    """Lines about a record. cost: a profile of the network (ornstein.cost.Profile), for what was saved."""
    plan, facts = told.get("plan", {}), told.get("facts", {})
    calls = {k: v for k, v in told["calls"].items() if k != "evaluations"}
    evaluations = told["calls"].get("evaluations", 0)
    lines = [f"{told['steps']} steps of {plan.get('solver', facts.get('solver', 'a solver'))} on the grid "
             f"{plan.get('grid', facts.get('grid', '?'))}: {evaluations} evaluations in {told['seconds']:.2f} s",
             "network calls by branch: " + (", ".join(f"{k} {v}" for k, v in calls.items()) or "none")]  # fmt: skip
    short = {k: evaluations - v for k, v in calls.items() if v < evaluations}
    lines += [f"branch '{k}' was left out in {n} of {evaluations} evaluations" for k, n in short.items()]
    if facts.get("forced"):
        lines.append(f"the plan was forced: {'; '.join(facts['forced'])}")
    lines += _parts(told, plan) + _trace(told) + _saved(told, cost) + _errors(facts)
    return lines


def _parts(told: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """What each part did, or that and why it did nothing."""
    by_class, lines = {}, []
    for text in plan.get("accelerate", ()):
        try:
            part = catalog.build("acceleration", text)
        except (OrnsteinError, OSError) as error:  # such as a calibration that has gone
            lines.append(f"{text}: cannot be built any more: {error}")
            continue
        by_class[type(part).__name__] = (text, part)
    for name, counts in told.get("parts", {}).items():
        text, part = by_class.pop(name, (name, None))
        share = counts["left"] / counts["asked"] if counts["asked"] else 0.0
        if share > 0:
            lines.append(f"{text}: left out {share:.0%} of what it was asked ({counts['asked']:g} times a site)")
        elif part is not None and "evaluation" in part.effects.replaces:
            lines.append(f"{text}: did nothing, it had everything computed: {_why(part, told['steps'])}")
        else:
            lines.append(f"{text}: took part at {counts['asked']:g} sites and steps, leaving none out")
    return lines + [f"{text}: did nothing, it was never asked" for text, _ in by_class.values()]


def _does(text: str, room: str) -> str:
    name = catalog.parse(text)[0]
    return "the pipeline's own" if name == catalog.OWN else catalog.find(name, room).summary


def _why(part: Any, steps: int) -> str:
    """The likeliest reason, from the settings of the part."""
    settings = asdict(part) if is_dataclass(part) else {}
    for name in ("threshold", "tolerance", "delta"):
        if isinstance(settings.get(name), (int, float)):
            return f"nothing changed as little as {name}={settings[name]:g} allows; raise it to skip more"
    for name in ("interval", "warmup", "start"):
        if isinstance(settings.get(name), (int, float)):
            return f"with {name}={settings[name]:g} a run of {steps} steps has none to leave out"
    return "its settings leave nothing out"


def _trace(told: Mapping[str, Any]) -> list[str]:
    """Which site in which step; sites of one fate stand together."""
    groups: dict[str, list[str]] = {}
    for site, signs in told.get("trace", {}).items():
        groups.setdefault(signs, []).append(site.removesuffix("/block"))
    if not groups:
        return []
    lines = ["sites by step (# computed, . left out, 1-9 tenths of it, blank: not asked):"]
    for signs, sites in groups.items():
        lines.append(f"  {signs}  {sites[0]}" + (f" and {len(sites) - 1} more, to {sites[-1]}" if len(sites) > 1 else ""))
    return lines


def _saved(told: Mapping[str, Any], cost: Any) -> list[str]:
    if not told.get("asked"):
        return []
    if cost is None:
        return ["saved: not known, since the model is not one that can be loaded by its name"]
    seconds = count = 0.0
    for site, asked in told["asked"].items():
        left = asked - told["computed"].get(site, 0.0)
        one = cost.sites.get(site.partition("#")[0] + ("/attention" if "#" in site else ""), (0.0, 0.0, 0))
        seconds, count = seconds + left * one[0], count + left * one[1]
    calls = sum(v for k, v in told["calls"].items() if k != "evaluations")
    whole = calls * cost.network[1]
    return [f"saved: {seconds:.2f} s and {count / 1e9:.3g} GFLOP of {whole / 1e9:.3g} ({count / whole:.0%}) in batches of "
            f"{cost.batch}, less what the parts take themselves"] if whole else []  # fmt: skip


def _errors(facts: Mapping[str, Any]) -> list[str]:
    found = facts.get("local_error") or []
    if not found:
        return []
    worst = max(range(len(found)), key=found.__getitem__)
    return [f"estimated local error, from the third step on: mean {sum(found) / len(found):.3g}, most {found[worst]:.3g} at "
            f"step {worst + 3}"]  # fmt: skip


# ---- a plan


def explain_plan(plan: Plan) -> list[str]:
    """What a plan does, by the first lines of its parts, and what was measured of it."""
    rooms = (("solvers", (plan.solver,)), ("grids", (plan.grid,)), ("guidance", plan.guidance),
             ("acceleration", plan.accelerate), ("compression", plan.compress))  # fmt: skip
    lines = [f"for '{plan.model or 'any model'}' ({plan.fingerprint or 'any weights'}): {plan.steps} steps in {plan.dtype}"]
    for room, parts in rooms:
        lines += [f"{room}: {text}: {_does(text, room)}" for text in parts]
    f = plan.figures
    if {"loss", "low", "high", "n", "confidence", "metric", "max_loss", "seconds", "batch", "times_faster", "reference"} <= set(f):
        lines += [f"promised with {f['confidence']:.0%}: {f['metric']} at most {f['max_loss']:g}; on {f['n']} fresh samples it was "
                  f"{f['loss']:.4g} [{f['low']:.4g}, {f['high']:.4g}]",
                  f"{f['seconds'] * 1e3:.3g} ms a picture in batches of {f['batch']}: {f['times_faster']:.2f} times faster than "
                  f"{f['reference']}"]  # fmt: skip
    else:
        lines.append("nothing was measured of it: `ornstein bench MODEL PLAN` does")
    return lines + [f"holds for {k}: {v or 'none'}" for k, v in plan.made_for.items()]


def differences(one: Plan, two: Plan) -> list[str]:
    """Field by field, what the second has otherwise."""
    found = []
    for name in (f.name for f in fields(Plan)):
        a, b = getattr(one, name), getattr(two, name)
        if isinstance(a, Mapping):
            keys = sorted(set(a) | set(b))
            found += [f"{name}.{k}: {a.get(k, 'none')} -> {b.get(k, 'none')}" for k in keys if a.get(k) != b.get(k)]
        elif a != b:
            told = [", ".join(v) or "none" if isinstance(v, tuple) else v for v in (a, b)]
            found.append(f"{name}: {told[0]} -> {told[1]}")
    return found or ["the plans are the same"]

"""One self-contained HTML page of what was measured: a table, the front of quality and time, pictures side by side."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.plan import Plan
from ornstein.present import contact_sheet, png

__all__ = ["Point", "frame", "page", "pictures", "scatter", "table", "tuned_page"]

SHOWN = 8  # pictures of each plan
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}code{font-size:.85em}
table{border-collapse:collapse;font-size:.85rem}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}tr.base td{color:#777}tr.front td:first-child{font-weight:600}
svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#444}.dim{color:#777;font-size:.85rem}
figure{margin:.6rem 0}figcaption{font-size:.85rem;color:#555}img{max-width:100%;image-rendering:pixelated}
"""


@dataclass(frozen=True)
class Point:
    """x, and y with its interval; front: it lies on the front; faint: a baseline."""

    name: str
    x: float
    y: float
    low: float
    high: float
    front: bool = False
    faint: bool = False


def scatter(points: Sequence[Point], across: str, up: str, bound: float | None = None) -> str:
    """An SVG of the points with error bars, names where there is room, the front, and a line at the bound. Both axes are
    logarithmic; the upward one is not where more than one value is 0 or less."""
    points = [p for p in points if p.x > 0 and math.isfinite(p.x) and math.isfinite(p.y)]
    if not points:
        return "<p>Nothing was measured.</p>"
    plain = sum(p.y <= 0 for p in points) > 1
    floor = min([p.y for p in points if p.y > 0] or [1e-6]) / 2  # where a loss of nothing stands on a logarithmic axis
    wide, high, left, low = 860, 460, 70, 50

    def rise(v: float) -> float:
        return v if plain else math.log10(max(v, floor))

    xs, ys = [math.log10(p.x) for p in points], [rise(v) for p in points for v in (p.y, p.high, *([p.low] if plain else []))]
    ys += ([rise(bound)] if bound else []) + ([] if plain else [rise(floor)])
    (x0, x1), (y0, y1) = (_padded(v) for v in (xs, ys))

    def at(x: float, y: float) -> tuple[float, float]:
        return (left + (math.log10(x) - x0) / (x1 - x0) * (wide - left - 20),
                high - low - (rise(y) - y0) / (y1 - y0) * (high - low - 20))  # fmt: skip

    parts = [f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="{html.escape(up)} against {html.escape(across)}">']
    for value, x in [(v, at(v, floor)[0]) for v in _ticks(x0, x1)]:
        parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{high - low}" stroke="#eee"/>'
                     f'<text x="{x:.1f}" y="{high - low + 18}" text-anchor="middle">{value:g}</text>')  # fmt: skip
    for value, y in [(v, at(points[0].x, v)[1]) for v in (_even(y0, y1) if plain else _ticks(y0, y1))]:
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{wide - 20}" y2="{y:.1f}" stroke="#eee"/>'
                     f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')  # fmt: skip
    if bound:
        y = at(points[0].x, bound)[1]
        red = 'stroke="#c33" stroke-dasharray="6 4"'
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{wide - 20}" y2="{y:.1f}" {red}/><text x="{wide - 22}" '
                     f'y="{y - 6:.1f}" text-anchor="end" style="fill:#c33">the bound</text>')  # fmt: skip
    front = sorted((p for p in points if p.front), key=lambda p: p.x)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(p.x, p.y) for p in front))
    parts.append(f'<polyline points="{path}" fill="none" stroke="#2a7" stroke-width="1.5"/>')
    for p in points:
        (x, y), colour = at(p.x, p.y), "#2a7" if p.front else "#aaa" if p.faint else "#36c"
        top, bottom = at(p.x, p.high)[1], at(p.x, p.low if plain else max(p.low, floor))[1]
        name, place = html.escape(p.name), f'cx="{x:.1f}" cy="{y:.1f}" r="4"'
        parts.append(f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{colour}"/>'
                     f'<circle {place} fill="{colour}"><title>{name}: {p.y:.4g}</title></circle>')  # fmt: skip
    parts += _names([(*at(p.x, p.y), p.name) for p in sorted(points, key=lambda p: (not p.front, p.x))], wide)
    middle = high / 2
    turned = f'x="16" y="{middle}" transform="rotate(-90 16 {middle})"'
    parts.append(f'<text x="{wide / 2}" y="{high - 10}" text-anchor="middle">{html.escape(across)}</text>'
                 f'<text {turned} text-anchor="middle">{html.escape(up)}</text></svg>')  # fmt: skip
    return "".join(parts)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Least and most, with some room."""
    room = 0.06 * (max(values) - min(values)) or 0.5
    return min(values) - room, max(values) + 2 * room


def _names(places: Sequence[tuple[float, float, str]], wide: int) -> list[str]:
    """Names beside their points, each where it meets no other; the first come first."""
    taken, parts = [], []
    for x, y, name in places:
        short = name if len(name) <= 40 else name[:39] + "\u2026"
        width = 6.6 * len(short)
        for start in (x + 7, x - 7 - width):
            box = (start, y - 16, start + width, y - 2)
            free = all(box[2] < t[0] or t[2] < box[0] or box[3] < t[1] or t[3] < box[1] for t in taken)
            if free and start > 72 and box[2] < wide:
                taken.append(box)
                parts.append(f'<text x="{start:.1f}" y="{y - 5:.1f}">{html.escape(short)}</text>')
                break
    return parts


def _even(low: float, high: float) -> list[float]:
    """About six round values from low to high."""
    raw = (high - low) / 6
    step = next(m * 10.0 ** math.floor(math.log10(raw)) for m in (1, 2, 5, 10) if m * 10.0 ** math.floor(math.log10(raw)) >= raw)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between 10**low and 10**high; of many, the powers alone."""
    few = (1,) if high - low > 3 else (1, 2, 5)
    found = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in few]
    return [v for v in found if low <= math.log10(v) <= high]


def table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """rows: (class of the row, cells)."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join(f'<tr class="{k}">' + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>" for k, cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def frame(title: str, body: str) -> str:
    """A whole page."""
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}"
            "</body></html>\n")  # fmt: skip


def pictures(trial: Any, drawn: Mapping[str, Tensor | None], plans: Mapping[str, Plan], seed: int) -> dict[str, str]:
    """Name -> the first pictures of a plan in a row, as a data URI; the same prompts and seed for all."""
    found = {}
    for name, plan in plans.items():
        x = drawn.get(name)
        if x is None:
            from ornstein.core.errors import OrnsteinError

            try:
                x = trial.draw(plan, seed, SHOWN)[0]
            except OrnsteinError:
                continue
        sheet = contact_sheet(list(trial.model.pictures(x[:SHOWN])), columns=SHOWN, side=64)
        found[name] = "data:image/png;base64," + base64.b64encode(png(sheet)).decode()
    return found


def page(bench: Any, shown: Mapping[str, str]) -> str:
    """The page of a benchmark of plans (ornstein.bench.Bench)."""
    metrics, first = list(bench.settings["metrics"]), bench.lines[0]
    fronts = {m: {x.name for x in bench.front(m)} for m in metrics}
    columns = ["plan", "ms a picture", "times faster", "calls", "skipped", *metrics]
    rows = []
    for line in bench.lines:
        kind = "base" if line.baseline else ""
        kind += " front" if any(line.name in names for names in fronts.values()) else ""
        if line.refused:
            rows.append((kind, [f"{line.name}: {line.refused}", *[""] * (len(columns) - 1)]))
            continue
        told = (f"{v[0]:.4g} [{v[1]:.4g}, {v[2]:.4g}]" for v in (line.losses[m] for m in metrics))
        rows.append((kind, [line.name, f"{line.second * 1e3:.2f}", f"{first.second / line.second:.2f}", str(line.calls),
                            f"{line.skipped:.0%}", *told]))  # fmt: skip
    floor = "; ".join(f"{m} {v[0]:.4g}" for m, v in bench.floor.items())
    body = [f'<p class="dim">{bench.settings["count"]} pictures of each plan, {bench.settings["rounds"]} rounds, '
            f"{html.escape(bench.library)}, {bench.threads} threads. Losses: mean with its 95 % interval; 0 is the reference. "
            f"The reference against itself with other noise: {floor}.</p>", table(columns, rows)]  # fmt: skip
    for m in metrics:
        points = [Point(x.name, x.second * 1e3, *x.losses[m][:3], x.name in fronts[m], x.baseline)
                  for x in bench.lines if not x.refused]  # fmt: skip
        body += [f"<h2>{html.escape(m)}</h2>", scatter(points, "milliseconds a picture", f"loss: {m}")]
    body.append("<h2>The same seeds</h2>")
    body += [f'<figure><img alt="{html.escape(n)}" src="{uri}"><figcaption>{html.escape(n)}</figcaption></figure>'
             for n, uri in shown.items()]  # fmt: skip
    left = [("", [x.name, part, f"{v['asked']:g}", f"{v['left']:g}"]) for x in bench.lines for part, v in x.parts.items()]
    body.append("<h2>What was left out</h2>" + table(["plan", "part", "asked", "left out"], left))
    return frame(f"{bench.model}: plans side by side", "".join(body))


def tuned_page(made: Any) -> str:
    """The page of a search for a plan (ornstein.tune.Tuned)."""
    from ornstein.bench import label

    goal, plan = made.goal, made.plan
    words = f"{goal.metric} at most {goal.max_loss:g}, {goal.objective} small, confidence {goal.confidence:.0%}"
    body = [f'<p class="dim">{html.escape(words)}; {made.seconds:.0f} s of search; reference: '
            f"<code>{html.escape(label(made.reference))}</code>.</p>"]  # fmt: skip
    if plan:
        f = plan.figures
        body.append(f"<p><b>Found:</b> <code>{html.escape(label(plan))}</code></p><p>On {f['n']} fresh samples its loss is "
                    f"{f['loss']:.4g} [{f['low']:.4g}, {f['high']:.4g}]; {f['seconds'] * 1e3:.2f} ms a picture, "
                    f"{f['times_faster']:.2f} times faster than the reference.</p>")  # fmt: skip
    else:
        body.append(f"<p><b>Nothing found.</b> {html.escape(str(made.refuse()))}</p>")
    tried = sorted(made.points, key=lambda p: p.share)
    least, front = math.inf, set()
    for p in tried:
        if p.proxy < least:
            least = p.proxy
            front.add(id(p))
    points = [Point(label(p.plan), p.share, p.proxy, p.proxy, p.proxy, id(p) in front) for p in tried]
    bound = goal.max_loss if goal.metric == "latent" else None
    across = f"{goal.objective}, share of the reference's"
    body += ["<h2>What was tried</h2>", scatter(points, across, "error of the latents", bound)]
    rows = [("front" if id(p) in front else "", [
        label(p.plan), p.stage, f"{p.share:.3f}", f"{p.proxy:.4g}",
        f"{p.loss[0]:.4g} [{p.loss[1]:.4g}, {p.loss[2]:.4g}]" if p.loss else "", p.why])
        for p in sorted(tried, key=lambda p: (p.stage != "promise", p.loss is None, p.share))]  # fmt: skip
    body.append(table(["plan", "stage", goal.objective, "latents", goal.metric, ""], rows))
    body.append("<h2>What was refused</h2>" + table(["plan", "why"], [("", list(v)) for v in made.left_out.items()]))
    return frame(f"{made.reference.model}: tuned", "".join(body))

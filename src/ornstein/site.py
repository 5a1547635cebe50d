"""The page: a static site of every method, written from the cards, the measured figures and the benchmarks.

`python -m ornstein.site --out site` needs a source checkout and MkDocs with the Material theme (`ornstein[docs]`). What it
builds opens from a folder, without a network. Texts and links are made here; how they look is in docs/site.
"""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ornstein import checks, evidence
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

__all__ = ["Method", "build", "main", "methods", "pages"]

VERDICTS = ("holds", "partly", "fails")
GUIDES, PARTS = ("quality", "guidance", "principles"), ("benchmarks", "models")  # pages of docs/, and its folders of pages
MARK = ".ornstein-site"  # lies in a folder that this program built and may replace
STEPS = 20  # of the full run that the costs of the accelerations are shares of
WIDE = "---\nhide: [toc]\n---\n\n"  # no table of contents beside the page
PROCESSES = {"flow": "linear flow", "vp": "variance preserving", "edm": "variance exploding"}


@dataclass(frozen=True)
class Method:
    """One method: where it is, its card, and its measured figures (a method of docs/evidence.json), or none."""

    entry: catalog.Entry
    card: Mapping[str, str]
    figures: Mapping[str, Any] | None

    @property
    def page(self) -> str:
        return f"methods/{self.entry.path}.md"

    @property
    def code(self) -> str:
        return f"src/ornstein/{self.entry.path}.py"

    @property
    def verdict(self) -> str:
        """That of the card; 'none' where there is none."""
        return self.card.get("verdict", "none")


def methods(docs: Path, figures: Mapping[str, Any]) -> list[Method]:
    """Every method that has a card."""
    found = []
    for entry in catalog.entries():
        if (docs / "methods" / f"{entry.path}.md").is_file():
            found.append(Method(entry, evidence.card(entry.path), figures.get("methods", {}).get(entry.path)))
    return found


# ---- words


def _escape(text: str) -> str:
    """For HTML, with `code` and links to papers."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    text = re.sub(r"arXiv:((?:[\w.-]+/)?[\d.]*\d)(?:v\d+)?", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text)
    address = r"(?<![\w/\"])(?:https?://)?(github\.com/[\w./-]*\w)"
    return re.sub(address, r'<a href="https://\1">\1</a>', text)


def _badge(verdict: str) -> str:
    return f'<span class="verdict {verdict}">{verdict if verdict in VERDICTS else "not tried"}</span>'


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def _up(page: str) -> str:
    """The way from a page to the top."""
    return "../" * page.count("/")


# ---- the page of a method


def method_page(method: Method, known: Mapping[str, Method], repository: str = "") -> str:
    """Markdown: verdict, claim, cost, figures, the text of the card, the code."""
    card, entry = method.card, method.entry
    code = f'<a href="{repository.rstrip("/")}/{method.code}">{method.code}</a>' if repository else method.code
    line = (_badge(method.verdict), f"<code>{entry.path}</code>", _escape(card.get("kind", "")), _escape(card.get("year", "")))
    facts = [("Cost", _escape(card.get("cost", ""))), ("Use when", _escape(card.get("use when", ""))),
             ("Composes with", _escape(card.get("composes with", ""))),
             ("Published", _escape(f"{card.get('authors', '')}, {card.get('year', '')}: {card.get('source', '')}")),
             ("Code", f'{code} (<a href="#code">below</a>)'),
             ("Try it again", f"<code>ornstein check {entry.path}</code>")]  # fmt: skip
    rows = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in facts)
    measured = _measured(method)
    body = _linked(_without_copies(card["body"]) if measured else card["body"], method, known)
    source = (catalog.ROOT / f"{entry.path}.py").read_text(encoding="utf-8").rstrip().replace("\n", "\n    ")
    parts = [f"# {card.get('title', entry.name)}",
             f'<div class="line">{"".join(f"<span>{x}</span>" for x in line)}</div>',
             f'<blockquote class="claim"><p>{_escape(card.get("claim", ""))}</p></blockquote>',
             f'<table class="facts"><tbody>{rows}</tbody></table>',
             *(["## Measured", measured] if measured else []), "## Notes", body,
             "## Code", f'??? note "{method.code}"\n\n    ``` python\n    {source}\n    ```']  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _measured(method: Method) -> str:
    """The rows of the evidence as a table, metric by metric. '' where nothing was measured."""
    figures = method.figures
    if not figures or not figures.get("rows"):
        return ""
    by_metric: dict[str, list[Any]] = {}
    for row in figures["rows"]:
        by_metric.setdefault(row["metric"], []).append(row)
    lines = []
    for metric, rows in by_metric.items():
        lines.append(f'<tr class="metric"><th colspan="5">{_escape(metric)}</th></tr>')
        for row in rows:
            mean, spread, n = checks.numbers(row)
            kind, told = html.escape(row["kind"]), _figure(mean) + (f" ± {spread:.2g}" if n > 1 else "")
            lines.append(f'<tr class="{kind}"><td>{_escape(row["name"])}</td><td>{kind}</td><td class="number">{told}</td>'
                         f'<td class="number">{n}</td><td>{_escape(row["cost"])}</td></tr>')  # fmt: skip
    head = '<tr><th>what</th><th>kind</th><th class="number">mean ± sd</th><th class="number">seeds</th><th>cost</th></tr>'
    full = "quick" if figures.get("quick", True) else "full"
    words = f"The {full} evidence, tried in {figures['seconds']:.1f} s of processor time."
    if figures["verdict"] != method.verdict:
        words += f" It came to '{figures['verdict']}', where the card says '{method.verdict}'."
    note = f"\n\n<p>{_escape(figures['note'])}</p>" if figures.get("note") else ""
    table = f'<table class="rows"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<p class="dim">{words}</p>\n\n<div class="wide">{table}</div>{note}'


def _without_copies(body: str) -> str:
    """The text of a card without the tables of its evidence (those that have a column 'kind'): the figures stand above."""
    kept, dropping = [], False
    lines = body.split("\n")
    for here, after in zip(lines, [*lines[1:], ""]):
        if not here.startswith("|"):
            dropping = False
        elif re.fullmatch(r"\|[\s|:-]+\|", after) and "kind" in [c.strip() for c in here.split("|")]:
            dropping = True
        if not dropping:
            kept.append(here)
    return "\n".join(kept)


def _linked(body: str, method: Method, known: Mapping[str, Method]) -> str:
    """`room/name` becomes a link to the page of that method; lists get the blank line before them that Markdown asks for."""

    def link(match: re.Match[str]) -> str:
        other = known.get(match[1])
        return match[0] if other is None or other is method else f"[{match[0]}]({_up(method.page)}{other.page})"

    body = re.sub(r"(?<!\[)`(\w+(?:/\w+)+)`(?!\])", link, body)
    return re.sub(r"(?m)^(?![-*] |\d+\. |[|\s>#])(.+)\n(?=(?:[-*]|1\.) )", r"\1\n\n", body)


# ---- the table of all


def index_page(found: Sequence[Method], figures: Mapping[str, Any]) -> str:
    """Every method in one table, and the form that filters it."""
    count = Counter(m.verdict for m in found)
    kinds = sorted({m.card.get("kind", "") for m in found} - {""})
    rooms = [r for r in catalog.ROOMS if any(m.entry.room == r for m in found)]
    form = ('<form class="filter"><input type="search" name="words" placeholder="words" aria-label="words">'
            + _select("room", rooms) + _select("kind", kinds) + _select("verdict", VERDICTS)
            + '<input type="reset" value="all" style="flex:0"></form><p class="count" aria-live="polite"></p>')  # fmt: skip
    head = "<tr><th>method</th><th>room</th><th>verdict</th><th>claim, as tried here</th></tr>"
    table = f'<table class="methods"><thead>{head}</thead><tbody>{"".join(map(_index_row, found))}</tbody></table>'
    tried = figures.get("versions", {})
    when = f" Figures: {figures['seconds']:.0f} s of processor time, torch {tried.get('torch', '?')}." if figures else ""
    told = ", ".join(f"{count[v]} {_badge(v)}" for v in VERDICTS)
    words = (f"<p>{len(found)} methods: {told}. Each claim is tried against what the method replaces and against as much spent "
             f"otherwise; the verdict is computed from the figures, and <code>ornstein check</code> tries it again.{when}</p>")
    parts = [f"{WIDE}# Every method, and whether its claim holds here", words, form, f'<div class="wide">{table}</div>']
    return "\n\n".join(parts) + "\n"


def _select(name: str, values: Iterable[str]) -> str:
    options = "".join(f'<option value="{html.escape(v)}">{html.escape(v)}</option>' for v in values)
    return f'<select name="{name}" aria-label="{name}"><option value="">every {name}</option>{options}</select>'


def _index_row(method: Method) -> str:
    card, entry = method.card, method.entry
    words = html.escape(" ".join([entry.path, *(card.get(k, "") for k in ("authors", "source", "use when", "composes with"))]))
    title = html.escape(card.get("title", entry.name))
    about = f'<span class="about">{html.escape(card.get("cost", ""))}</span>'
    return (f'<tr data-room="{entry.room}" data-kind="{html.escape(card.get("kind", "").lower())}" '
            f'data-verdict="{method.verdict}" data-words="{words}">'
            f'<td><a href="{method.page.removesuffix(".md")}.html">{title}</a><br><code>{entry.name}</code>{about}</td>'
            f'<td>{entry.room}</td>'
            f'<td>{_badge(method.verdict)}</td><td>{_escape(card.get("claim", ""))}</td></tr>')  # fmt: skip


# ---- what it costs to be near


def pareto_page(docs: Path, known: Mapping[str, Method]) -> str:
    """Distance to the truth against cost, on the digits: the trained network, then their exact law by process."""
    by_name = {m.entry.name: m for m in known.values() if m.entry.room in ("acceleration", "solvers")}
    key = ('<p class="key"><span style="--of:#36c">solver</span><span style="--of:#d9822b">acceleration</span>'
           '<span style="--of:#aaa">of diffusers</span><span style="--of:#2a7">nothing cheaper is nearer</span></p>')  # fmt: skip
    across = "network calls, or what costs as many FLOPs"
    parts = [f"{WIDE}# Distance against cost: every method on the digits",
             "How far from the truth for how much. Both axes are logarithmic; the nearer to the lower left corner the better. "
             "A point tells its name under the pointer and leads to the page of its method.", key]  # fmt: skip
    points = _trained(docs / "benchmarks" / "acceleration.json")
    if points:
        parts += ["## A trained network",
                  f"The shipped model `digits` (a DiT). Cost: FLOPs in calls of the network; {STEPS} is the full run of DDIM, of "
                  "which the accelerations leave something out. Distance: relative L2 to the solved equation (100 steps of "
                  "DPM-Solver++(2M)), bars over the seeds. [The benchmark](benchmarks/acceleration.md).",
                  _plot(points, across, "relative L2 distance to the solved equation", by_name)]  # fmt: skip
    for process, words in PROCESSES.items():
        points = _exact(docs / "benchmarks" / "solvers.csv", process)
        if points:
            parts += [f"## The exact law, {words}",
                      "The optimal denoiser of the digits, each solver on the grid on which it is best for that many calls. "
                      "Distance: median to the end of the exact trajectory. [The benchmark](benchmarks/solvers.md).",
                      _plot(points, "network calls", "median distance to the exact end", by_name)]  # fmt: skip
    parts.append("The two truths differ, a network's own equation and the law of the data, so the plots have axes of their own.")
    return "\n\n".join(parts) + "\n"


Mark = tuple[str, float, float, float, float]  # name, cost, distance, low, high


def _trained(file: Path) -> list[Mark]:
    """The accelerations of the digits, and the plain solvers that they are compared with."""
    if not file.is_file():
        return []
    found: dict[str, Mark] = {}
    for line in json.loads(file.read_text(encoding="utf-8"))["lines"]:
        if line["model"] != "digits":
            continue
        told = [(line["name"], line["flops"] * STEPS, line["exact"])]
        told += [(f"{n}, {o['steps']} steps", float(o["steps"]), o["exact"]) for n, o in line["others"].items() if n != "kept"]
        for name, cost, far in told:
            found[name] = (name, cost, sum(far) / len(far), min(far), max(far))
    return list(found.values())


def _exact(file: Path, process: str) -> list[Mark]:
    """Every solver at every number of calls, on its best grid."""
    if not file.is_file():
        return []
    best: dict[tuple[str, str], Mark] = {}
    with file.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            far, spread = float(row["error"]), float(row["spread"])
            if (row["kind"], row["process"]) != ("digits", process) or not math.isfinite(far):
                continue
            key = row["solver"], row["nfe"]
            if key not in best or far < best[key][2]:
                best[key] = (f"{row['solver']} on {row['grid']}", float(row["calls"]), far, far - spread, far + spread)
    return list(best.values())


def front(marks: Sequence[Mark]) -> set[str]:
    """Names of the marks that nothing as cheap is nearer than, as 'name cost'."""
    least, found = math.inf, set()
    for name, cost, far, *_ in sorted(marks, key=lambda m: (m[1], m[2])):
        if far < least:
            least = far
            found.add(f"{name} {cost:g}")
    return found


def _part(name: str) -> str:
    """'pndm:terms=2 on beta' -> 'pndm'; 'skip, blocks 2 and 4' -> 'skip'."""
    return re.split(r"[:,\s]", name, maxsplit=1)[0]


def _plot(marks: Sequence[Mark], across: str, up: str, by_name: Mapping[str, Method]) -> str:
    """The scatter of the reports, its points linked."""
    from ornstein.report import Point, scatter

    ahead = front(marks)
    points = [Point(n, x, y, low, high, f"{n} {x:g}" in ahead, n.startswith("diffusers")) for n, x, y, low, high in marks]
    points.sort(key=lambda p: (p.front, not p.faint, p.x))  # the front is drawn last

    def linked(match: re.Match[str]) -> str:
        method = by_name.get(_part(html.unescape(match[1])))
        if method is None:
            return match[0]
        return f'<a href="{method.page.removesuffix(".md")}.html" class="{method.entry.room}">{match[0]}</a>'

    drawn = re.sub(r"<circle [^>]*><title>(.*?): [^:]*</title></circle>", linked, _named(scatter(points, across, up), ahead))
    return f'<div class="plot">{drawn}</div>'


def _named(svg: str, ahead: set[str]) -> str:
    """Of many points only the front is named, on its empty side, below on the left; no name covers another."""
    names = {html.escape(n.rpartition(" ")[0]) for n in ahead}
    svg = re.sub(r'<text x="[\d.]+" y="[\d.]+">[^<]*</text>', "", svg)
    taken: list[tuple[float, float, float]] = []
    for x, y, name in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*fill="#2a7"[^>]*><title>(.*?): [^:]*</title>', svg):
        start, end, low = float(x) - 8 - 6.4 * len(html.unescape(name)), float(x) - 8, float(y) + 14
        if name in names and start > 75 and not any(start < b and a < end and abs(low - t) < 13 for a, b, t in taken):
            taken.append((start, end, low))
            label = f'<text x="{end:.1f}" y="{low:.1f}" text-anchor="end">{name}</text>'
            svg = svg.replace("</svg>", f"{label}</svg>")
    return svg


# ---- all of it


@cache
def _docs() -> Path:
    docs = catalog.ROOT.parent.parent / "docs"
    if not (docs / "site" / "mkdocs.yml").is_file():
        raise OrnsteinError("what the page is made of is not installed", "Run from a source checkout.")
    return docs


def pages(docs: Path, repository: str = "") -> dict[str, str]:
    """The Markdown of every page by its place."""
    figures = checks.load(docs / "evidence.json")
    found = methods(docs, figures)
    known = {m.entry.path: m for m in found}
    written = {"index.md": index_page(found, figures), "pareto.md": pareto_page(docs, known)}
    written |= {m.page: method_page(m, known, repository) for m in found}
    for file in [*(docs / f"{name}.md" for name in GUIDES), *(f for part in PARTS for f in sorted((docs / part).glob("*.md")))]:
        if file.is_file():
            written[file.relative_to(docs).as_posix()] = file.read_text(encoding="utf-8")
    return written


def navigation(written: Mapping[str, str]) -> list[Any]:
    """What MkDocs calls nav."""
    rooms = {r: [{p.rpartition("/")[2][:-3]: p} for p in written if p.startswith(f"methods/{r}/")] for r in catalog.ROOMS}
    nav: list[Any] = [{"Methods": [{"All": "index.md"}, *({r: found} for r, found in rooms.items() if found)]},
                      {"Pareto": "pareto.md"}]  # fmt: skip
    nav += [{name.capitalize(): f"{name}.md"} for name in GUIDES if f"{name}.md" in written]
    for folder in PARTS:
        found = [{p.rpartition("/")[2][:-3]: p} for p in written if p.startswith(f"{folder}/")]
        nav += [{folder.capitalize(): found}] if found else []
    return nav


def build(out: Path, repository: str = "") -> int:
    """Build the site into the folder `out`, replacing one that was built before; hand back how many pages it has."""
    docs = _docs()
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise OrnsteinError(f"{out} holds something else", "Give an empty folder, or one that does not exist.")
    written = pages(docs, repository)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, text in written.items():
            (folder / "docs" / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / "docs" / place).write_text(text, encoding="utf-8")
        for file in (*docs.rglob("*.png"), *(docs / "benchmarks").glob("*.json"), *(docs / "benchmarks").glob("*.csv")):
            (folder / "docs" / file.relative_to(docs)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / "docs" / file.relative_to(docs))
        for piece in ("site.css", "methods.js"):
            shutil.copy(docs / "site" / piece, folder / "docs" / piece)
        _mkdocs(docs / "site" / "mkdocs.yml", folder / "docs", folder / "site", navigation(written))
        (folder / "site" / MARK).touch()
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(folder / "site", out)
    return len(written)


def _mkdocs(config: Path, docs: Path, site: Path, nav: list[Any]) -> None:
    try:
        from mkdocs.commands.build import build as run
        from mkdocs.config import load_config
        from mkdocs.exceptions import Abort, MkDocsException
    except ImportError as error:
        raise OrnsteinError("MkDocs is not installed", "pip install 'ornstein[docs]'") from error
    import logging

    heard: list[str] = []
    ear = logging.Handler(logging.WARNING)
    ear.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("mkdocs")
    log.addHandler(ear)
    try:
        run(load_config(str(config), docs_dir=str(docs), site_dir=str(site), nav=nav, strict=True))
    except (Abort, MkDocsException) as error:
        raise OrnsteinError(f"MkDocs refused: {'; '.join(heard) or error}", "Mend the text it names.") from error
    finally:
        log.removeHandler(ear)


def main(arguments: Sequence[str] | None = None) -> None:
    import argparse
    import time

    parser = argparse.ArgumentParser(prog="python -m ornstein.site", description="Build the page of every method.")
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder to build into (default: site)")
    parser.add_argument("--repository", default="", help="address of the files, to link code to")
    asked = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        count = build(asked.out, asked.repository)
    except OrnsteinError as error:
        raise SystemExit(f"error: {error.what}. {error.remedy}") from error
    print(f"{count} pages in {time.perf_counter() - began:.0f} s: {asked.out / 'index.html'}")


if __name__ == "__main__":
    main()

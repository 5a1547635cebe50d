"""The page: what it says of each method, its filter, its plots, and, where the tools are, the built site in a browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from ornstein import checks, evidence, site
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

CARD = {"title": "New — a thing", "authors": "A. Author", "year": "2024", "source": "arXiv:2401.00001", "kind": "solver",
        "claim": "`new` < old at 10 calls", "verdict": "partly", "cost": "1 call", "use when": "often",
        "composes with": "all & sundry", "body": "**What it does.** As `solvers/ddim` does, `solvers/nothing` not.\n"
        "- one\n- two\n\n| what | kind | value |\n|---|---|---|\n| new | method | 1 |\n\n| plain | table |\n|---|---|\n| a | b |\n"
        }  # fmt: skip
ROWS = [{"name": "new", "kind": "method", "metric": "error (lower)", "values": [1.0, 3.0], "cost": "10 NFE"},
        {"name": "old <x>", "kind": "natural", "metric": "error (lower)", "values": [4.0], "cost": "10 NFE"},
        {"name": "new", "kind": "method", "metric": "seconds (lower)", "values": ["inf", 1.0], "cost": ""}]  # fmt: skip
FIGURES = {"quick": True, "verdict": "partly", "recorded": "partly", "seconds": 1.25, "rows": ROWS}


@pytest.fixture(scope="module")
def docs(root) -> Path:
    return root / "docs"


@pytest.fixture(scope="module")
def written(docs) -> dict[str, str]:
    return site.pages(docs)


@pytest.fixture(scope="module")
def known(docs) -> dict[str, site.Method]:
    return {m.entry.path: m for m in site.methods(docs, {})}


def _method(figures=FIGURES, **card) -> site.Method:
    return site.Method(catalog.find("solvers/heun"), CARD | card, figures)


def test_every_method_with_a_card_has_a_page_and_a_row(written, docs):
    cards = {p.relative_to(docs).as_posix() for p in (docs / "methods").rglob("*.md")}
    assert cards <= set(written)
    row = r'<tr data-room="(\w+)" data-kind="([^"]*)" data-verdict="(\w+)".*?<a href="([^"]+)\.html">'
    rows = re.findall(row, written["index.md"])
    assert {f"{r[3]}.md" for r in rows} == cards and len(rows) == len(cards)
    for room, _, verdict, page in rows:
        card = (docs / f"{page}.md").read_text(encoding="utf-8")
        assert page.split("/")[1] == room and f"\nverdict: {verdict}\n" in card.replace("\r", "")


def test_the_form_offers_what_the_rows_have(written):
    text = written["index.md"]
    for name in ("room", "kind", "verdict"):
        select = re.search(rf'<select name="{name}".*?</select>', text)[0]
        offered = {html.unescape(v).lower() for v in re.findall(r'<option value="([^"]+)"', select)}
        had = {html.unescape(v) for v in re.findall(rf'data-{name}="([^"]*)"', text)}
        assert had <= offered, (name, had - offered)
    counts = Counter(re.findall(r'data-verdict="(\w+)"', text))
    told = re.search(r"methods: (\d+) .*?, (\d+) .*?, (\d+) ", text)
    assert [int(n) for n in told.groups()] == [counts[v] for v in site.VERDICTS]


def test_the_page_of_a_method_says_it_all(known):
    page = site.method_page(_method(), known)
    assert "# New — a thing" in page and '<span class="verdict partly">partly</span>' in page
    assert "<code>new</code> &lt; old at 10 calls" in page and "all &amp; sundry" in page and "A. Author" in page
    assert '<a href="https://arxiv.org/abs/2401.00001">arXiv:2401.00001</a>' in page
    assert "class Heun" in page and "src/ornstein/solvers/heun.py" in page and "1.2 s of processor time" in page
    linked = site.method_page(_method(), known, "https://example.org/tree/main/")
    assert '"https://example.org/tree/main/src/ornstein/solvers/heun.py"' in linked


def test_the_figures_stand_metric_by_metric_with_their_spread(known):
    page = site.method_page(_method(), known)
    rows = re.findall(r'<tr class="([\w-]+)">(.*?)</tr>', page)
    assert [k for k, _ in rows] == ["metric", "method", "natural", "metric", "method"]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", r) for _, r in rows]
    assert cells[1] == ["new", "method", "2 ± 1.4", "2", "10 NFE"]
    assert cells[2] == ["old &lt;x&gt;", "natural", "4", "1", "10 NFE"]
    assert cells[4][2].startswith("inf")


def test_a_method_without_figures_keeps_the_table_of_its_card(known):
    with_them, without = site.method_page(_method(), known), site.method_page(_method(None), known)
    assert "| new | method | 1 |" not in with_them and "| plain | table |" in with_them
    assert "| new | method | 1 |" in without and "## Measured" not in without and "## Measured" in with_them


def test_a_verdict_that_is_not_that_of_the_card_is_told(known):
    assert "It came to 'fails'" in site.method_page(_method({**FIGURES, "verdict": "fails"}), known)
    assert "It came to" not in site.method_page(_method(), known)


def test_text_of_the_card_links_to_other_methods_and_its_lists_are_lists(known):
    page = site.method_page(_method(), known)
    assert "[`solvers/ddim`](../../methods/solvers/ddim.md)" in page and "`solvers/nothing` not.\n\n- one\n- two" in page


def test_papers_and_repositories_become_links():
    told = site._escape("https://github.com/a/b; arXiv:2206.00364v2, github.com/c/d <i>")
    assert told == ('<a href="https://github.com/a/b">github.com/a/b</a>; <a href="https://arxiv.org/abs/2206.00364">'
                    'arXiv:2206.00364</a>, <a href="https://github.com/c/d">github.com/c/d</a> &lt;i&gt;')  # fmt: skip


# ---- the plots


def test_the_front_is_what_nothing_as_cheap_is_nearer_than():
    marks = [("a", 1, 9.0, 0, 0), ("b", 2, 9.5, 0, 0), ("c", 2, 5.0, 0, 0), ("d", 3, 5.0, 0, 0), ("e", 9, 1.0, 0, 0)]
    assert site.front(marks) == {"a 1", "c 2", "e 9"}


def test_every_measured_acceleration_and_solver_is_on_the_plots_and_linked(written, docs, known):
    page = written["pareto.md"]
    assert page.count("<svg") == 4 and page.count("</svg>") == 4
    titles = [html.unescape(t) for t in re.findall(r"<title>(.*?): [^:]*</title>", page)]
    marks = site._trained(docs / "benchmarks" / "acceleration.json")
    marks += [m for p in site.PROCESSES for m in site._exact(docs / "benchmarks" / "solvers.csv", p)]
    assert sorted(titles) == sorted(m[0] for m in marks)
    unlinked = re.findall(r"(?<!\">)<circle [^>]*><title>(.*?): [^:]*</title>", page)
    by_name = {p.split("/")[1] for p in known if p.startswith(("solvers/", "acceleration/"))}
    assert all(site._part(html.unescape(t)) not in by_name for t in unlinked)
    for link in set(re.findall(r'<a href="(methods/[^"]+)\.html" class', page)):
        assert f"{link}.md" in written


def test_a_cost_is_the_share_of_the_full_run_in_calls(docs):
    import json

    lines = json.loads((docs / "benchmarks/acceleration.json").read_text())["lines"]
    line = next(x for x in lines if x["model"] == "digits")
    found = {m[0]: m for m in site._trained(docs / "benchmarks" / "acceleration.json")}
    assert found[line["name"]][1] == pytest.approx(20 * line["flops"])
    assert found[line["name"]][2] == pytest.approx(sum(line["exact"]) / len(line["exact"]))


def test_a_solver_stands_on_its_best_grid_at_the_calls_it_made(tmp_path):
    (tmp_path / "s.csv").write_text("kind,process,nfe,solver,grid,calls,error,spread\n"
                                    "digits,flow,10,heun,beta,9,0.5,0.1\ndigits,flow,10,heun,karras,9,0.25,0.01\n"
                                    "digits,flow,10,heun,sway,9,0.3,0.1\ndigits,vp,10,heun,beta,9,0.1,0.1\n"
                                    "mixture,flow,10,heun,beta,9,0.1,0.1\ndigits,flow,20,heun,beta,19,nan,0\n")  # fmt: skip
    assert site._exact(tmp_path / "s.csv", "flow") == [("heun on karras", 9.0, 0.25, 0.24, 0.26)]
    assert site._exact(tmp_path / "none.csv", "flow") == site._trained(tmp_path / "none.json") == []


def test_only_the_front_is_named_and_no_name_covers_another():
    from ornstein.report import Point, scatter

    points = [Point(f"near {i}", 10 + i / 100, 1 - i / 100, 0.5, 1, True) for i in range(40)]
    points += [Point("last", 100, 0.1, 0.1, 0.1, True), Point("behind", 90, 0.9, 0.9, 0.9)]
    points.append(Point("first", 1, 2, 2, 2, True))  # its name would cover the axis
    drawn = site._named(scatter(points, "x", "y"), {f"{p.name} {p.x:g}" for p in points if p.front})
    names = re.findall(r'y="([\d.]+)" text-anchor="end">(near \d+|last|behind|first)</text>', drawn)
    assert "last" in dict(names[::-1]).values() and not {"behind", "first"} & {n for _, n in names}
    heights = sorted(float(y) for y, n in names if n != "last")
    assert heights and all(b - a >= 13 for a, b in zip(heights, heights[1:]))


# ---- the whole


def test_the_navigation_has_every_page_once(written):
    def places(part):
        if isinstance(part, str):
            return [part]
        return [p for x in (part.values() if isinstance(part, dict) else part) for p in places(x)]

    assert sorted(places(site.navigation(written))) == sorted(written)


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OrnsteinError, match="something else"):
        site.build(tmp_path)
    with pytest.raises(OrnsteinError, match="something else"):
        site.build(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_the_page_is_written_without_torch_or_mkdocs():
    import sys

    code = "import ornstein.site, sys; print('torch' in sys.modules, 'mkdocs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]


@pytest.fixture(scope="module")
def built(written, tmp_path_factory, docs) -> Path:
    """The site of a few methods: of all of them it is `python -m ornstein.site`."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'ornstein[docs]'")
    pytest.importorskip("material", reason="MkDocs' Material theme is not installed: pip install 'ornstein[docs]'")
    others = [text for place, text in written.items() if not place.startswith(("methods/", "index", "pareto"))]
    few = {"solvers/ddim", "solvers/heun", "grids/karras", "metrics/psnr", *re.findall(r"methods/([\w/]+)\.md", "".join(others))}
    out = tmp_path_factory.mktemp("site") / "out"
    with pytest.MonkeyPatch.context() as patch:
        figures = {"methods": {"solvers/heun": FIGURES}}
        found = [m for m in site.methods(docs, figures) if m.entry.path in few]
        patch.setattr(site, "methods", lambda docs, figures: found)
        patch.setattr(checks, "load", lambda file: {})
        assert site.build(out) == len(few) + sum(not p.startswith("methods/") for p in written)
        site.build(out)  # over the one that was built
    return out


def test_the_built_site_needs_no_network_and_its_links_lead_somewhere(built):
    pages = list(built.rglob("*.html"))
    assert {"index.html", "pareto.html", "principles.html"} <= {p.name for p in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="?(?:https?:)?//', text), page
        assert not [t for t in re.findall(r"<link[^>]*>", text) if "//" in t and "canonical" not in t], page
        body = text[text.index("<article") : text.index("</article>")]
        for link in re.findall(r'(?:href|src)="?([^"\s>#?]+)', body):
            if not link.startswith(("http", "data:", "mailto:")) and page.name not in ("404.html", "pareto.html"):
                assert (page.parent / link).is_file(), (page, link)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --virtual-time-budget=3000 --dump-dom").split()  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
def test_in_a_browser_the_filter_shows_what_is_asked_for(built, tmp_path):
    def shown(query: str) -> tuple[list[str], str]:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"file://{built / 'index.html'}{query}"]
        page = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        table = page[page.index('<table class="methods"') :]
        rows = re.findall(r"<tr data-room=[^>]*>.*?</tr>", table[: table.index("</table>")])
        visible = [r for r in rows if ' hidden=""' not in r[: r.index("><td")]]
        return [re.search(r"<code>(\w+)</code>", r)[1] for r in visible], re.search(r'class="count"[^>]*>([^<]*)', page)[1]

    everything, _ = shown("")
    assert {"ddim", "heun", "karras"} <= set(everything)
    cards = {e.name: (e.room, evidence.card(e.path)["verdict"]) for e in catalog.entries() if e.name in everything}
    names, count = shown("?verdict=holds")
    assert set(names) == {n for n in everything if cards[n][1] == "holds"} != set() and f" {len(names)} holds" in count
    names, count = shown("?room=solvers&verdict=partly")
    assert {cards[n] for n in names} <= {("solvers", "partly")} and count.startswith(f"{len(names)} of {len(everything)} ")
    names, count = shown("?room=solvers&words=rosenbrock+HEUN")
    assert names == [] and count.startswith("No method")
    names, count = shown("?words=KARRAS%20arXiv:2206.00364&room=nonsense")
    assert "karras" in names and count.startswith(f"{len(names)} of {len(everything)} methods")

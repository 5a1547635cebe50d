"""The command line. Nothing heavy is imported before a command needs it: `ornstein --help` never loads torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["app"]

HELP = """Make pictures with diffusion models, and see what every method costs.

Start with:

    ornstein generate "a red apple" "a sleepy cat"

    ornstein methods solvers

    ornstein show ddim
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode="markdown", context_settings={"help_option_names": ["-h", "--help"]})  # fmt: skip


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return (
        console if console.is_terminal else Console(stderr=stderr, highlight=False, width=160)
    )  # whole lines for grep


def _version(wanted: bool) -> None:
    if wanted:
        from ornstein import __version__

        typer.echo(f"ornstein {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _root(version: Version = False) -> None:
    pass


# ---- generate


Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw: one picture each.")]
ModelName = Annotated[str, typer.Option(help="A shipped model, or a file of weights.")]
PlanFile = Annotated[Path | None, typer.Option(help="Run as this plan says; other options still win.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the solver. More is slower and finer.")]
Solver = Annotated[str | None, typer.Option(help="Such as `ddim` or `dpmpp2m`; see `ornstein methods solvers`.")]
Grid = Annotated[str | None, typer.Option(help="Where the steps are, such as `beta` or `karras:rho=5`.")]
Guidance = Annotated[str | None, typer.Option(help="How hard to follow the prompt: a number, or `cfg:scale=3`.")]
Accelerate = Annotated[list[str] | None, typer.Option(help="Such as `firstblock:threshold=0.1`. May be repeated.")]
Seed = Annotated[int, typer.Option(help="The same seed draws the same pictures.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the pictures. Default: `pictures/MODEL-1`, `-2`, ...")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the pictures that are in the folder.")]
SavePlan = Annotated[Path | None, typer.Option(help="Write down how it was done, to be given to --plan.")]
PromptsFile = Annotated[Path | None, typer.Option(help="A text file with one prompt in each line.")]


@app.command()
def generate(prompts: Prompts = None, model: ModelName = "emoji", plan: PlanFile = None, steps: Steps = None,
             solver: Solver = None, grid: Grid = None, guidance: Guidance = None, accelerate: Accelerate = None,
             seed: Seed = 0, out: Out = None, overwrite: Overwrite = False, save_plan: SavePlan = None,
             prompts_file: PromptsFile = None) -> None:  # fmt: skip
    """Draw pictures: a PNG for each prompt, a contact sheet, and the record of the run.

    ornstein generate "a red apple" "a sleepy cat"

    ornstein generate "a red apple" --steps 12 --solver dpmpp2m --seed 3

    ornstein generate 3 7 --model digits --accelerate firstblock:threshold=0.1
    """
    from ornstein import present

    wanted = _prompts(prompts, prompts_file)
    settings = _settings(plan, steps, solver, grid, guidance, accelerate)
    place = out or _free(Path("pictures"), Path(model).stem)
    with present.folder(place, overwrite) as part:
        done = _draw(model, wanted, settings, plan, seed)
        record = {"model": model, "seed": seed, **_plan_dict(done.plan), **done.record.as_dict(), "prompts": wanted}
        files = present.save(part, done.images, wanted, record)
        if save_plan:
            done.plan.save(save_plan)
    _report(place, files, done)


def _prompts(given: list[str] | None, file: Path | None) -> list[str]:
    wanted = list(given or [])
    if file is not None:
        try:
            wanted += [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text in UTF-8"
            raise OrnsteinError(f"cannot read the prompts in {file}: {why}", "Give one prompt in each line.") from error
    if not wanted or not all(p.strip() for p in wanted):
        what = "an empty prompt" if wanted else "no prompt"
        raise OrnsteinError(what, 'Say what to draw: ornstein generate "a red apple".')
    return wanted


def _settings(plan: Path | None, steps: int | None, solver: str | None, grid: str | None, guidance: str | None,
              accelerate: list[str] | None) -> dict[str, Any]:  # fmt: skip
    """The options that were given, for Model.generate. Their names are checked before anything heavy loads."""
    if steps is not None and steps < 1:
        raise OrnsteinError(f"steps={steps} is not a positive whole number", "Ask for at least 1 step.")
    for room, spec in [("solvers", solver), ("grids", grid), *(("acceleration", a) for a in accelerate or [])]:
        if spec is not None:
            catalog.find(catalog.parse(spec)[0], room)
    told = {"steps": steps, "solver": solver, "grid": grid, "guidance": _guidance(guidance), "accelerate": accelerate or None}
    return {k: v for k, v in told.items() if v is not None}


def _guidance(text: str | None) -> tuple[str, ...] | None:
    """'3' is 'cfg:scale=3'; 'none' is no guidance at all."""
    if text is None or text == "none":
        return None if text is None else ()
    try:
        return (f"cfg:scale={float(text)}",)
    except ValueError:
        catalog.find(catalog.parse(text)[0], "guidance")
        return (text,)


def _free(base: Path, stem: str) -> Path:
    return next(p for i in range(1, 1_000_000) if not (p := base / f"{stem}-{i}").exists())


def _draw(model: str, prompts: list[str], settings: dict[str, Any], plan: Path | None, seed: int) -> Any:
    import ornstein

    loaded = ornstein.load(model)
    if plan is not None:
        settings = {"plan": ornstein.Plan.load(plan), **settings}
    with _bar("{task.description}") as bar:
        task = bar.add_task(f"drawing {len(prompts)} with {model}", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return loaded.generate(prompts, seed=seed, progress=progress, **settings)


def _plan_dict(plan: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {"plan": asdict(plan)} if plan is not None else {}


def _report(place: Path, files: list[str], done: Any) -> None:
    record = done.record
    skipped = f", {record.skipped():.0%} of the asked sites skipped" if record.asked_at else ""
    lines = [f"{len(files) - 2} pictures in {record.seconds:.1f} s: {record.steps} steps{skipped}",
             f"contact sheet  {place / 'contact-sheet.png'}", f"record         {place / 'record.json'}"]  # fmt: skip
    typer.echo("\n".join(lines))


# ---- methods, show, check


Words = Annotated[list[str] | None, typer.Argument(metavar="[ROOM|WORDS]", help="A room, or words to look for.")]
Name = Annotated[str | None, typer.Argument(metavar="[NAME|ROOM]", help="A method or a room.")]
Everything = Annotated[bool, typer.Option("--all", help="Every method of the house.")]
Quick = Annotated[bool, typer.Option("--quick/--full", help="Seconds for each method, or its full evidence.")]


@app.command()
def methods(words: Words = None) -> None:
    """List what there is: every method with the verdict of its evidence.

    ornstein methods

    ornstein methods solvers

    ornstein methods cache block
    """
    found = _search(words or [])
    table = _table("room", "method", "verdict", "what it is")
    for column, values in zip(table.columns, ([e.room for e in found], [e.name for e in found], ["verdict"], [])):
        column.no_wrap, column.overflow = True, "ellipsis"  # a method is a line
        column.min_width = max(map(len, values), default=None)
    before = None
    for entry in found:
        verdict = _verdict(_card(entry).get("verdict", "-"))
        table.add_row(entry.room if entry.room != before else "", f"[bold]{entry.name}[/]", verdict, entry.summary)
        before = entry.room
    _console().print(table)
    typer.echo(f"{len(found)} methods. `ornstein show NAME` has the card of one, `ornstein check NAME` tries it again.")


def _search(words: list[str]) -> list[catalog.Entry]:
    if len(words) == 1 and words[0] in catalog.ROOMS:
        found = list(catalog.entries(words[0]))
    else:
        texts = {e: f"{e.path} {e.summary} {' '.join(_card(e).values())}".lower() for e in catalog.entries()}
        found = [e for e, text in texts.items() if all(w.lower() in text for w in words)]
    if not found:
        known = {e.name for e in catalog.entries()} | set(catalog.ROOMS)
        raise unknown("room or words", " ".join(words), known)
    return found


def _card(entry: catalog.Entry) -> dict[str, str]:
    """The card of an entry, or nothing where it has none (a recipe, or a method in the making)."""
    from ornstein import evidence

    try:
        return evidence.card(entry.path)
    except OrnsteinError:
        return {}


def _verdict(word: str) -> str:
    colour = {"holds": "green", "partly": "yellow", "fails": "red"}.get(word, "dim")
    return f"[{colour}]{word}[/]"


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@app.command()
def show(name: Annotated[str, typer.Argument(help="A method, as `ornstein methods` lists it.")]) -> None:
    """Print the card of a method: what it claims, what was measured here, what does not hold.

    ornstein show ddim

    ornstein show solvers/heun
    """
    from rich.markdown import Markdown

    from ornstein import evidence

    entry = catalog.find(name)
    card = evidence.card(entry.path)
    table = _table("", "")
    table.show_header = False
    for key in (k for k in card if k not in ("title", "body")):
        table.add_row(f"[dim]{key}[/]", _verdict(card[key]) if key == "verdict" else card[key])
    console = _console()
    console.print(f"\n[bold]{card['title']}[/]  [dim]{entry.path}[/]")
    console.print(table)
    console.print(Markdown(card["body"]))


@app.command()
def check(name: Name = None, everything: Everything = False, quick: Quick = True) -> None:
    """Try the claim of a method again, against what it replaces and at equal cost.

    Ends with exit code 1 where a verdict differs from the one on the card.

        ornstein check ddim

        ornstein check solvers --full
    """
    console = _console()
    differs = []
    for entry in _to_check(name, everything):
        with _console(stderr=True).status(f"trying {entry.path}"):
            found, recorded = _try(entry, quick)
        if found != recorded:
            differs.append(entry.path)
            said = recorded or "nothing"
            console.print(f"[red]{entry.path}: the card says '{said}', the evidence says '{found}'[/]\n")
    if differs:
        raise typer.Exit(1)


def _to_check(name: str | None, everything: bool) -> list[catalog.Entry]:
    if (name is None) != everything:
        raise OrnsteinError("nothing to check" if name is None else "both a name and --all",
                            "Give a method, a room, or --all.")  # fmt: skip
    if everything:
        return [e for e in catalog.entries() if e.room != "recipes"]
    if name == "recipes" or name not in catalog.ROOMS and catalog.find(name).room == "recipes":
        raise OrnsteinError(
            f"'{name}' has no evidence: recipes only assemble", "Check methods: `ornstein check --all`."
        )
    return list(catalog.entries(name)) if name in catalog.ROOMS else [catalog.find(name)]


def _try(entry: catalog.Entry, quick: bool) -> tuple[str, str]:
    import time

    from ornstein import evidence

    began = time.perf_counter()
    result, recorded = evidence.check(entry.path, quick)
    seconds = time.perf_counter() - began
    table = _table("", "kind", "measured", "mean", "spread", "seeds", "cost")
    for row in result.rows:
        figures = f"{row.mean:.4g}", f"{row.spread:.2g}", str(len(row.values))
        table.add_row(row.name, row.kind, row.metric, *figures, row.cost)
    console = _console()
    console.print(f"[bold]{entry.path}[/] {_verdict(result.verdict)} [dim]{seconds:.1f} s[/]\n{result.claim}")
    console.print(table)
    if result.note:
        console.print(f"{result.note}\n")
    return result.verdict, recorded


Count = Annotated[int, typer.Option(help="How many pictures to draw. More is slower and surer.")]


@app.command()
def evaluate(model: Annotated[str, typer.Argument(help="A shipped model, or a file of weights.")], count: Count = 200,
             seed: Seed = 0) -> None:  # fmt: skip
    """Measure a model's pictures against real ones, each figure with its interval and its floor.

    ornstein evaluate digits --count 100
    """
    import ornstein
    from ornstein.evaluate import evaluate as measure

    loaded = ornstein.load(model)
    with _bar("{task.description}") as bar:
        task = bar.add_task(f"drawing {count} with {model}", total=None)
        found = measure(loaded, count, seed, progress=lambda done, total: bar.update(task, completed=done, total=total))
    table = _table("metric", "value", "95 % interval", "better", "real against real", "extractor", "pictures")
    for m in found:
        floor = "" if m.floor is None else f"{m.floor:.4g}"
        table.add_row(
            m.name, f"{m.value:.4g}", f"{m.low:.4g} to {m.high:.4g}", m.better, floor, m.extractor, str(m.n)
        )
    _console().print(table)


# ---- bench


Subject = Annotated[str, typer.Argument(metavar="WHAT", help="What to compare: solvers or acceleration.")]
Nfe = Annotated[str | None, typer.Option(help="Network calls, such as `5,10,20`; for acceleration the steps of the full run.")]
Processes = Annotated[list[str] | None, typer.Option("--process", help="Of solvers: flow, vp or edm. Repeatable. Default: all.")]
Seeds = Annotated[int, typer.Option(help="Groups of trajectories, for the spread.")]
Hasty = Annotated[bool, typer.Option("--quick", help="Half a minute: fewer seeds, and of the solvers fewer tables.")]
Names = Annotated[list[str] | None, typer.Option("--only", help="Only this method. May be repeated.")]
Beside = Annotated[bool, typer.Option("--peers", help="With the caches of diffusers, of acceleration.")]
BenchFolder = Annotated[Path | None, typer.Option(help="Folder for the tables: `out/bench-WHAT`. What it has of solvers is kept.")]


@app.command()
def bench(what: Subject, nfe: Nfe = None, process: Processes = None, only: Names = None, seeds: Seeds = 5,
          quick: Hasty = False, peers: Beside = False, out: BenchFolder = None) -> None:  # fmt: skip
    """Compare methods at equal cost: solvers with the exact solution, accelerations with fewer steps.

    The schedulers of diffusers stand in the tables of the solvers, where it is installed. Interrupted, these go on.

    ornstein bench solvers --quick

    ornstein bench solvers --process edm --nfe 8,12,20

    ornstein bench acceleration --only taylorseer:interval=4 --only firstblock --peers
    """
    out = out or Path(f"out/bench-{what}")
    if what == "acceleration":
        return _bench_acceleration(_numbers(nfe), process, tuple(only or ()), seeds, quick, peers, out)
    if what != "solvers":
        raise unknown("benchmark", what, ["solvers", "acceleration"])
    if peers:
        raise OrnsteinError("--peers is for acceleration", "The solvers have their peers beside them already: leave it out.")
    for name in only or []:
        catalog.find(name, "solvers")
    numbers = _numbers(nfe)
    from ornstein import bench as benchmark

    settings = benchmark.Settings(numbers or benchmark.NFE, tuple(process or benchmark.GRIDS), seeds, quick, tuple(only or ()))
    benchmark.contenders(settings.only)  # a mistake is told before the bar appears
    with _bar("{task.description}") as bar:
        task = bar.add_task("solvers", total=None)

        def progress(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{done}/{total} {words}")

        found = benchmark.solvers(settings, out, progress)
    for kind, name in found.settings.grounds():
        _bench_table(found, kind, name)
    reasons: dict[str, list[str]] = {}
    for name, why in found.left_out.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        _console().print(f"[dim]left out: {', '.join(names)}: {why}[/]")
    typer.echo("\n".join(str(p) for p in sorted(out.glob("solvers.*"))))


def _bench_acceleration(numbers: tuple[int, ...], process: Any, only: tuple[str, ...], seeds: int, quick: bool, peers: bool,
                        out: Path) -> None:  # fmt: skip
    if len(numbers) > 1 or process:
        raise OrnsteinError("acceleration is measured on the flow models of the digits, with one number of steps",
                            "Give no --process and one --nfe, such as --nfe 20.")  # fmt: skip
    from ornstein import bench_acceleration as benchmark

    settings = benchmark.Settings(*numbers[:1] or (20,), min(seeds, 2) if quick else seeds, 1 if quick else 5, only, peers)
    benchmark.contenders(only, settings.steps)  # a mistake is told before the bar appears
    with _bar("{task.description}") as bar:
        task = bar.add_task("acceleration", total=None)

        def progress(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{done}/{total} {words}")

        found = benchmark.accelerations(settings, out, progress)
    benchmark.show(found, _console(), _table)
    typer.echo("\n".join(str(p) for p in sorted(out.glob("acceleration.*"))))


def _numbers(text: str | None) -> tuple[int, ...]:
    """'10,5' -> (5, 10)."""
    try:
        return tuple(sorted({int(n) for n in text.split(",")})) if text is not None else ()
    except ValueError as error:
        raise OrnsteinError(f"cannot read --nfe {text}", "Write whole numbers with commas, such as 5,10,20.") from error


def _bench_table(found: Any, kind: str, process: str) -> None:
    """One row per solver on its best grid, best first; the winner of each column is green with a star."""
    from ornstein.bench import figure

    numbers = found.settings.nfe
    table = _table("solver", "grid", *map(str, numbers))
    table.title, table.title_justify = f"[bold]{kind}, {process}[/]  distance to the exact end by network calls", "left"
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    winners = found.winners(kind, process)
    for row in found.rows(kind, process):
        told = (f"[bold green]{figure(c)}*[/]" if c is winners.get(c.nfe) else figure(c) for c in row)
        table.add_row(f"[dim]{row[0].solver}[/]" if row[0].peer else row[0].solver, row[0].grid, *told)
    _console().print(table)
    elsewhere = {c.nfe: c for c in winners.values() if c not in [d for row in found.rows(kind, process) for d in row]}
    if elsewhere:
        words = "; ".join(f"{n}: {c.solver} on {c.grid}, {figure(c)}" for n, c in sorted(elsewhere.items()))
        _console().print(f"[dim]better yet on another grid:[/] {words}\n")


# ---- train, fetch


Recipe = Annotated[str, typer.Argument(help="A recipe, as `ornstein methods recipes` lists it.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting. May be repeated.")]
RunFolder = Annotated[Path | None, typer.Option(help="Folder for checkpoints and logs. Default: `runs/RECIPE`.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")]


@app.command()
def train(recipe: Recipe, changes: Changes = None, out: RunFolder = None, resume: Resume = False) -> None:
    """Train a model by a recipe, with checkpoints, sample pictures and curves on the way.

    ornstein train digits --set steps=200

    ornstein train digits --resume
    """
    from ornstein.recipes import path_of, prepare

    path = path_of(recipe)
    settings = dict(_change(text) for text in changes or [])
    place = out or Path("runs") / path.rpartition("/")[2].removeprefix("train_")
    if (place / "checkpoint.safetensors").exists() and not resume:
        raise OrnsteinError(f"{place} holds a training already", "Go on with --resume, or give another --out.")
    if resume and not (place / "checkpoint.safetensors").exists():
        raise OrnsteinError(f"{place} holds no checkpoint to go on from", "Start without --resume, or give its --out.")
    from ornstein.train import fit

    training = prepare(recipe, settings)
    count, loss, speed = "{task.completed:.0f}/{task.total:.0f}", "{task.fields[loss]:.4f}", "{task.fields[speed]:.0f}"
    words = f"{{task.description}} {count}  loss {loss}  {speed} img/s"
    with _bar(words) as bar:
        task = bar.add_task(recipe, total=training.settings.steps, loss=float("nan"), speed=0.0)

        def progress(step: int, steps: int, facts: dict[str, float]) -> None:
            bar.update(task, completed=step, loss=facts["loss"], speed=facts["img/s"])

        fit(training, place, progress)
    typer.echo(f"model  {place / 'model.safetensors'}\nlog    {place / 'log.csv'}")


def _bar(words: str) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn(words), BarColumn(), TimeRemainingColumn(), console=_console(stderr=True))


def _change(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key.isidentifier():
        raise OrnsteinError(f"cannot read --set {text}", "Write --set KEY=VALUE, such as --set steps=200.")
    return key, value


@app.command()
def fetch(data: Annotated[str, typer.Argument(help="A data set: emoji.")]) -> None:
    """Fetch a data set that is too large to ship, check it, and make it ready.

    ornstein fetch emoji
    """
    import importlib

    path = catalog.find(data, "data").path
    module = importlib.import_module("ornstein." + path.replace("/", "."))
    if not hasattr(module, "fetch"):
        raise OrnsteinError(f"'{data}' ships with the package", "There is nothing to fetch: use it.")
    with _bar("{task.description}") as bar:
        task = bar.add_task(f"fetching {data}", total=1.0)
        paths = module.fetch(progress=lambda share, words: bar.update(task, completed=share, description=words))
    typer.echo("\n".join(str(p) for p in paths))

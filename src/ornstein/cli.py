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
ModelName = Annotated[str, typer.Option(help="A shipped model, a file of weights, or the folder of a diffusers pipeline.")]
Call = Annotated[list[str] | None, typer.Option("--call", metavar="KEY=VALUE", help="Of a pipeline: an argument of every call, "
                                                "such as `guidance_scale=5`. Repeatable.")]  # fmt: skip
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
Negative = Annotated[str | None, typer.Option(help="What guidance is to move away from, as a prompt.")]
Steer = Annotated[list[str] | None, typer.Option(help="Search or particles, such as `best_of_n:budget=8`. May be repeated.")]
Reward = Annotated[str | None, typer.Option(help="What steering goes by: `class`, `agreement`, `ink` or `brightness`.")]
Force = Annotated[bool, typer.Option("--force", help="Run a plan of another model or use nevertheless; the record says so.")]


@app.command()
def generate(prompts: Prompts = None, model: ModelName = "emoji", plan: PlanFile = None, steps: Steps = None,
             solver: Solver = None, grid: Grid = None, guidance: Guidance = None, accelerate: Accelerate = None,
             seed: Seed = 0, out: Out = None, overwrite: Overwrite = False, save_plan: SavePlan = None,
             prompts_file: PromptsFile = None, negative: Negative = None, steer: Steer = None, reward: Reward = None,
             call: Call = None, force: Force = False) -> None:  # fmt: skip
    """Draw pictures: a PNG for each prompt, a contact sheet, and the record of the run.

    ornstein generate "a red apple" "a sleepy cat"

    ornstein generate "a red apple" --steps 12 --solver dpmpp2m --seed 3

    ornstein generate 3 7 --model digits --accelerate firstblock:threshold=0.1

    ornstein generate "a (red:1.4) apple" --negative "green" --steer best_of_n:budget=4 --reward agreement

    ornstein generate "a red apple" --model path/to/pipeline --call guidance_scale=5 --plan plan.json
    """
    from ornstein import present

    wanted = _prompts(prompts, prompts_file)
    settings = _settings(plan, steps, solver, grid, guidance, accelerate)
    settings |= _steering(negative, steer, reward) | {"force": force}
    place = out or _free(Path("pictures"), Path(model).stem)
    with present.folder(place, overwrite) as part:
        done = _draw(_loaded(model, call), wanted, settings, plan, seed)
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
        if spec is not None and spec != catalog.OWN:
            catalog.find(catalog.parse(spec)[0], room)
    told = {"steps": steps, "solver": solver, "grid": grid, "guidance": _guidance(guidance), "accelerate": accelerate or None}
    return {k: v for k, v in told.items() if v is not None}


def _steering(negative: str | None, steer: list[str] | None, reward: str | None) -> dict[str, Any]:
    """As above, of the options that choose among trajectories or name what to keep away from."""
    for spec in steer or []:
        catalog.find(catalog.parse(spec)[0], "steering")
    if reward is not None:
        from ornstein.rewards import REWARDS

        if reward not in REWARDS:
            raise unknown("reward", reward, REWARDS)
    return {k: v for k, v in {"negative": negative, "steer": steer or None, "reward": reward}.items() if v is not None}


def _guidance(text: str | None) -> tuple[str, ...] | None:
    """'3' is 'cfg:scale=3'; 'none' is no guidance at all."""
    if text is None or text == "none":
        return None if text is None else ()
    try:
        return (f"cfg:scale={float(text)}",)
    except ValueError:
        if (name := catalog.parse(text)[0]) != catalog.OWN:
            catalog.find(name, "guidance")
        return (text,)


def _free(base: Path, stem: str) -> Path:
    return next(p for i in range(1, 1_000_000) if not (p := base / f"{stem}-{i}").exists())


def _loaded(source: str, call: list[str] | None = None) -> Any:
    """A model, or a pipeline that is called with these arguments."""
    import ast

    import ornstein

    model, told = ornstein.load(source), {}
    for text in call or []:
        key, sign, value = text.partition("=")
        if not sign or not model.foreign:
            what = f"--call {text} is not KEY=VALUE" if not sign else f"--call {text} is for pipelines, and '{source}' is none"
            raise OrnsteinError(what, "Write --call guidance_scale=5, with the folder of a pipeline.")
        try:
            told[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            told[key] = value
    return model.asking(**told) if told else model


def _draw(loaded: Any, prompts: list[str], settings: dict[str, Any], plan: Path | None, seed: int) -> Any:
    import ornstein

    if plan is not None:
        settings = {"plan": ornstein.Plan.load(plan), **settings}
    with _bar("{task.description}") as bar:
        task = bar.add_task(f"drawing {len(prompts)} with {loaded.name}", total=None)

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
    typer.echo("\n".join([lines[0], *_steered(record.facts), *lines[1:]]))


def _steered(facts: dict[str, Any]) -> list[str]:
    """What choosing came to, in one line."""
    steer = facts.get("steer")
    if not steer:
        return []
    kept = [r for r in steer.get("rewards", ()) if r is not None]
    judged = f"reward {steer['reward']} {sum(kept) / len(kept):.4g} on average, of {steer['reward_calls']:g} asked" if kept else ""
    said = [", ".join(steer["parts"]), judged, f"{facts['nfe']:g} network calls a picture"]
    ess = [x for name in ("fk", "svdd") for row in facts.get(name, {}).get("ess", ()) for x in row]
    least = f"least effective sample size {min(ess):.2f} of {steer['width']}" if ess else ""
    return [f"steered        {'; '.join(s for s in [*said, least] if s)}"]


# ---- methods, show, check


Words = Annotated[list[str] | None, typer.Argument(metavar="[ROOM|WORDS]", help="A room, or words to look for.")]
Name = Annotated[str | None, typer.Argument(metavar="[NAME|ROOM]", help="A method or a room.")]
Everything = Annotated[bool, typer.Option("--all", help="Every method of the house.")]
Quick = Annotated[bool, typer.Option("--quick/--full", help="Seconds for each method, or its full evidence.")]
Jobs = Annotated[int | None, typer.Option(metavar="N", help="Worker processes; 0: none. Default: the cores, at most 4.")]
Figures = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every figure to this file, or renew its.")]


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
def check(name: Name = None, everything: Everything = False, quick: Quick = True, jobs: Jobs = None,
          figures: Figures = None) -> None:  # fmt: skip
    """Try the claim of a method again, against what it replaces and at equal cost.

    Ends with exit code 1 where a verdict differs from the one on the card.

        ornstein check ddim

        ornstein check solvers --full

        ornstein check --all --jobs 2 --json docs/evidence.json
    """
    console = _console()
    tried = _to_check(name, everything)
    if everything or jobs is not None or figures is not None:
        from ornstein import checks

        if not checks.command([e.path for e in tried], jobs, quick, figures, console, _console(stderr=True)):
            raise typer.Exit(1)
        return
    differs = []
    for entry in tried:
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


from ornstein import cli_measure  # noqa: E402, F401  its commands register themselves

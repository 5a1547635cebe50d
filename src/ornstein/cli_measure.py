"""The commands that measure plans: bench, tune, explain. They register themselves on the command line's app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ornstein.cli import Call, Seed, _bar, _console, _loaded, _table, app
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown

__all__ = ["bench", "explain", "tune"]

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A shipped model, a file of weights, or the folder of a "
                                              "pipeline.")]  # fmt: skip
Batch = Annotated[int, typer.Option(help="Pictures at a time.")]
PromptsFile = Annotated[Path | None, typer.Option(help="A text file with what the model will be asked for, one in each line.")]


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    from ornstein.cli import _prompts

    return _prompts(None, file)


# ---- bench


Subject = Annotated[str, typer.Argument(metavar="WHAT", help="A model, or `solvers` or `acceleration`: every one of the house.")]
Plans = Annotated[list[str] | None, typer.Argument(metavar="PLAN...", help="Files, or `steps=12 solver=dpmpp2m ...` in quotes.")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="A loss, such as latent or perceptual. Repeatable.")]
Count = Annotated[int, typer.Option(help="Pictures of each plan.")]
Rounds = Annotated[int, typer.Option(help="How often each plan is timed.")]
Against = Annotated[Path | None, typer.Option(help="An earlier bench.json: exit code 1 where something got worse.")]
Nfe = Annotated[str | None, typer.Option(help="Network calls, such as `5,10,20`; for acceleration the steps of the full run.")]
Processes = Annotated[list[str] | None, typer.Option("--process", help="Of solvers: flow, vp or edm. Repeatable. Default: all.")]
Seeds = Annotated[int, typer.Option(help="Of solvers and acceleration: groups of trajectories, for the spread.")]
Hasty = Annotated[bool, typer.Option("--quick", help="Of solvers and acceleration: half a minute.")]
Names = Annotated[list[str] | None, typer.Option("--only", help="Of solvers and acceleration: this method. Repeatable.")]
Grounds = Annotated[list[str] | None, typer.Option("--model", help="Of acceleration: digits, digits-unet, exact or emoji (slow). "
                                                   "Repeatable. Default: all but emoji.")]  # fmt: skip
Beside = Annotated[bool, typer.Option("--peers", help="Of acceleration: with the caches of diffusers.")]
BenchFolder = Annotated[Path | None, typer.Option(help="Folder for the tables: `out/bench-WHAT`. What it has is kept.")]


@app.command()
def bench(what: Subject, plans: Plans = None, metric: Metrics = None, count: Count = 32, rounds: Rounds = 3, batch: Batch = 16,
          seed: Seed = 0, prompts_file: PromptsFile = None, against: Against = None, nfe: Nfe = None, process: Processes = None,
          only: Names = None, seeds: Seeds = 5, quick: Hasty = False, peers: Beside = False, model: Grounds = None,
          call: Call = None, out: BenchFolder = None) -> None:  # fmt: skip
    """Compare plans on a model beside fewer steps: loss with intervals, seconds, pictures. Interrupted, it goes on.

    ornstein bench digits "steps=12 solver=dpmpp2m" "steps=20 accelerate=taylorseer:interval=3" --metric latent --metric accuracy

    ornstein bench digits plan.json --out out/today --against out/bench-digits/bench.json

    ornstein bench path/to/pipeline "steps=20 accelerate=firstblock" --prompts-file prompts.txt --call guidance_scale=5

    ornstein bench solvers --quick

    ornstein bench acceleration --only taylorseer:interval=4 --only firstblock --peers

    ornstein bench acceleration --model emoji
    """
    out = out or Path(f"out/bench-{Path(what).stem}")
    if what == "acceleration":
        return _bench_acceleration(_numbers(nfe), process, tuple(only or ()), seeds, quick, peers, tuple(model or ()), out)
    if model:
        raise OrnsteinError(f"--model is for acceleration, and this is {what}", "Leave it out, or bench acceleration.")
    if what == "solvers":
        return _bench_solvers(_numbers(nfe), process, tuple(only or ()), seeds, quick, peers, out)
    others = {"--nfe": nfe, "--process": process, "--only": only, "--quick": quick, "--peers": peers}
    if given := [name for name, value in others.items() if value]:
        raise OrnsteinError(f"{', '.join(given)}: only for solvers and acceleration", "Leave it out, or bench one of these.")
    numbers = (count, rounds, batch, seed)
    return _bench_plans(what, list(plans or []), tuple(metric or ("latent",)), numbers, prompts_file, against, out, call)


def _bench_plans(model: str, texts: list[str], metrics: tuple[str, ...], numbers: tuple[int, int, int, int],
                 prompts: Path | None, against: Path | None, out: Path, call: list[str] | None) -> None:  # fmt: skip
    from ornstein import bench as benchmark

    if model not in _known() and not model.endswith(".safetensors") and not Path(model).is_dir():
        raise unknown("model or benchmark", model, [*_known(), "solvers", "acceleration"])
    settings = benchmark.Settings(metrics, *numbers)
    before = benchmark.Bench.load(against) if against else None
    if against and against.resolve() == (out / "bench.json").resolve():
        raise OrnsteinError(f"{against} would be held against itself", "Write this benchmark elsewhere: give another --out.")
    loaded = _loaded(model, call)
    subjects = {text: benchmark.read_plan(loaded, text) for text in texts}
    with _bar("{task.description}") as bar:
        task = bar.add_task(model, total=None)

        def progress(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{done}/{total} {words}")

        found = benchmark.bench(loaded, subjects, settings, prompts=_lines(prompts), out=out, progress=progress)
    _plans_table(found)
    typer.echo(f"table and pictures  {out / 'bench.html'}\nfigures             {out / 'bench.json'}")
    if before and (worse := benchmark.against(found, before)):
        _console().print("\n".join(worse), style="red", markup=False)
        raise typer.Exit(1)


def _known() -> list[str]:
    from ornstein.model import known

    return known()


def _plans_table(found: Any) -> None:
    from rich.markup import escape

    metrics = found.settings["metrics"]
    table = _table("plan", "ms a picture", "times faster", "calls", "skipped", *metrics)
    fronts = {x.name for m in metrics for x in found.front(m)}
    for line in found.lines:
        style = "bold green" if line.name in fronts else "dim" if line.baseline else "none"
        name = f"[{style}]{escape(line.name)}[/]"
        if line.refused:
            table.add_row(name, f"[red]{escape(line.refused)}[/]")
            continue
        told = (f"{v[0]:.4g} [dim]{v[1]:.3g} to {v[2]:.3g}[/]" for v in (line.losses[m] for m in metrics))
        faster = found.lines[0].second / line.second
        table.add_row(name, f"{line.second * 1e3:.2f}", f"{faster:.2f}", str(line.calls), f"{line.skipped:.0%}", *told)
    _console().print(table)
    floor = ", ".join(f"{m} {v[0]:.3g}" for m, v in found.floor.items())
    _console().print(f"[dim]Green: none is both faster and better. The reference against itself with other noise: {floor}.[/]")


def _bench_solvers(numbers: tuple[int, ...], process: Any, only: tuple[str, ...], seeds: int, quick: bool, peers: bool,
                   out: Path) -> None:  # fmt: skip
    if peers:
        raise OrnsteinError("--peers is for acceleration", "The solvers have their peers beside them already: leave it out.")
    for name in only:
        catalog.find(name, "solvers")
    from ornstein import bench_solvers as benchmark

    settings = benchmark.Settings(numbers or benchmark.NFE, tuple(process or benchmark.GRIDS), seeds, quick, only)
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
                        models: tuple[str, ...], out: Path) -> None:  # fmt: skip
    if len(numbers) > 1 or process:
        raise OrnsteinError("acceleration is measured on flow models, with one number of steps",
                            "Give no --process and one --nfe, such as --nfe 20.")  # fmt: skip
    from ornstein import bench_acceleration as benchmark

    settings = benchmark.Settings(*numbers[:1] or (20,), min(seeds, 2) if quick else seeds, 1 if quick else 5, only, peers,
                                  models or benchmark.QUICK)  # fmt: skip
    benchmark.contenders(only, settings.steps, settings.models)  # a mistake is told before the bar appears
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
    from ornstein.bench_solvers import figure

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


# ---- tune


Metric = Annotated[str, typer.Option(help="The loss that is bounded, such as latent, perceptual or accuracy.")]
MaxLoss = Annotated[float, typer.Option(help="The bound on its mean.")]
Budget = Annotated[str, typer.Option(help="Time to search in, such as 90s, 10m or 1h.")]
Objective = Annotated[str, typer.Option(help="What is made small: seconds, memory or flops.")]
Confidence = Annotated[float, typer.Option(help="Of the promise.")]
Sampler = Annotated[str, typer.Option(help="How plans are chosen: halving, or optuna where it is installed.")]
TuneFolder = Annotated[Path | None, typer.Option(help="Folder for plan.json and report.html. Default: `out/tune-MODEL`.")]


@app.command()
def tune(model: ModelArgument, max_loss: MaxLoss, metric: Metric = "latent", budget: Budget = "10m",
         objective: Objective = "seconds", confidence: Confidence = 0.95, batch: Batch = 16, seed: Seed = 0,
         prompts_file: PromptsFile = None, sampler: Sampler = "halving", call: Call = None,
         out: TuneFolder = None) -> None:  # fmt: skip
    """Find the fastest plan that loses no more than a bound, proven on seeds that the search never saw.

    Searches solver, steps, grid, guidance, acceleration and compression on this model. Ends with exit code 1, and says what
    is within reach, where the bound cannot be kept. Interrupted, it goes on.

    ornstein tune digits --max-loss 0.05 --budget 1m

    ornstein tune emoji --metric perceptual --max-loss 0.02 --budget 10m

    ornstein tune path/to/pipeline --max-loss 0.1 --prompts-file prompts.txt --call guidance_scale=5 --batch 4
    """
    from ornstein import tune as tuning

    goal, seconds = tuning.Goal(metric, max_loss, objective, confidence), _seconds(budget)
    out = out or Path(f"out/tune-{Path(model).stem}")
    loaded = _loaded(model, call)
    with _bar("{task.description}") as bar:
        task = bar.add_task("tuning", total=1.0)

        def progress(share: float, words: str) -> None:
            bar.update(task, completed=share, description=words)

        found = tuning.tune(loaded, goal, seconds, prompts=_lines(prompts_file), batch=batch, seed=seed, sampler=sampler, out=out,
                            progress=progress)  # fmt: skip
    typer.echo(f"{len(found.points)} plans tried in {found.seconds:.0f} s; report  {out / 'report.html'}")
    if found.plan is None:
        _console(stderr=True).print(str(found.refuse()), style="red", markup=False)
        raise typer.Exit(1)
    f = found.plan.figures
    _console().print(tuning.label(found.plan), style="bold green", markup=False)
    _console().print(f"{metric} {f['loss']:.4g} [{f['low']:.4g}, {f['high']:.4g}] on "
                     f"{f['n']} fresh samples, {f['times_faster']:.2f} times faster than {f['reference']}",
                     markup=False)  # fmt: skip
    typer.echo(f"plan  {out / 'plan.json'}")


def _seconds(text: str) -> float:
    """'90s', '10m', '1h' or a number of seconds."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * unit[text[-1]] if text[-1:] in unit else float(text)
    except ValueError as error:
        raise OrnsteinError(f"cannot read --budget {text}", "Write a time such as 90s, 10m or 1h.") from error
    if not 0 < value < float("inf"):
        raise OrnsteinError(f"a budget of {text} allows nothing", "Give some time, such as 10m.")
    return value


# ---- explain


Told = Annotated[list[Path], typer.Argument(metavar="RUN|PLAN...", help="A folder of pictures, a record, or one or two plans.")]


@app.command()
def explain(what: Told) -> None:
    """Say in words what a run computed and left out, or what a plan does; of two plans, what differs.

    ornstein explain pictures/emoji-1

    ornstein explain plan.json other.json
    """
    from ornstein import explain as words

    found = [words.read(path) for path in what]
    if len(found) == 2 and all(kind == "plan" for kind, _ in found):
        lines = words.differences(found[0][1], found[1][1])
    elif len(found) == 1:
        kind, told = found[0]
        lines = words.explain_plan(told) if kind == "plan" else words.explain_run(told, _profile(told))
    else:
        raise OrnsteinError(f"{len(found)} things to explain at once", "Give one run, one plan, or two plans.")
    typer.echo("\n".join(lines))


def _profile(told: dict[str, Any]) -> Any:
    """What the sites of the run's model cost here, if it is a model that can be loaded."""
    if not told.get("asked"):
        return None
    import ornstein
    from ornstein.cost import profile

    try:
        loaded = ornstein.load(told["model"])
        return profile(loaded, min(16, len(told["prompts"])), told["prompts"])
    except OrnsteinError:
        return None

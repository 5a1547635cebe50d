"""What the contract leaves unsaid of HarmoniCa: tables, what training changes and what not, and refusals."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from ornstein.acceleration.harmonica import HarmoniCa
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat
from ornstein.recipes.train_harmonica import Recipe, Router, train_harmonica


class Branch(nn.Module):
    seat = Seat("branch", "mlp")

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


class Block(nn.Module):
    seat = Seat("block", streams=("x",))

    def __init__(self, by: float) -> None:
        super().__init__()
        self.mlp = Branch(by)

    def forward(self, x, now):
        return x + self.mlp(now)


class Net(nn.Module):
    """The sum of its branches: now and 10 now."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1.0), Block(10.0)])

    def forward(self, now):
        x = torch.zeros_like(now)
        for block in self.blocks:
            x = block(x, now)
        return x


def answers(plugin, steps=4, evaluations=1):
    """At step k the branches see k + 1, and half more at a second evaluation."""
    net, run, out = Net(), Run(), []
    detach = attach(net, plugin)
    try:
        with running(run):
            for k in range(steps):
                for e in range(evaluations):
                    with calling(Clock(k, e, steps, ids=(0,))):
                        out.append(net(torch.full((1, 1), k + 1 + e / 2)).item())
    finally:
        detach()
    return out, run.record


def table(rows, names=("blocks.0.mlp", "blocks.1.mlp")):
    return Artefact("harmonica", {"router": torch.tensor(rows)}, {"branches": list(names)})


def test_a_table_says_which_branch_is_computed_when(tmp_path):
    low, high, edge = -5.0, 5.0, -2.2  # sigmoid(-2.2) = 0.0998
    found = table([[low, low], [high, low], [low, low], [edge, high]])
    assert answers(HarmoniCa(found))[0] == [11.0, 12.0, 12.0, 42.0], "row 0 is always computed"
    assert answers(HarmoniCa(found, threshold=0.09))[0] == [11.0, 12.0, 12.0, 44.0]
    path = found.save(tmp_path / "table.safetensors")
    out, record = answers(catalog.build("acceleration", f"harmonica:router='{path}'"), evaluations=2)
    assert out == [11.0, 16.5, 17.0, 17.5, 17.5, 17.5, 42.5, 47.5]
    assert record.facts["harmonica"]["cond"] == {"cache_bytes": 8, "evaluations": 8}
    assert answers(HarmoniCa(interval=2))[0] == [11.0, 11.0, 33.0, 33.0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(OrnsteinError, match="learned for 2 steps, and this run has 4"):
        answers(HarmoniCa(table([[5.0, 5.0], [5.0, 5.0]])))
    with pytest.raises(OrnsteinError, match="does not fit the 2 here"):
        attach(Net(), HarmoniCa(table([[5.0]], ("other",))))
    with pytest.raises(OrnsteinError, match="interval is at least 1"):
        HarmoniCa(interval=0)
    with pytest.raises(OrnsteinError, match="steps at least 2"):
        train_harmonica(denoiser(), (1, 8, 8), None, Recipe(steps=1))
    with pytest.raises(OrnsteinError, match="no network"):
        train_harmonica(lambda x, t: x, (1, 8, 8))


def test_the_soft_plugin_mixes_and_keeps_what_is_above_the_threshold():
    w = torch.tensor(0.3)
    r = torch.tensor([[5.0, 5.0], [w.logit(), -5.0], [-5.0, -5.0]], requires_grad=True)
    router = Router(r, ("blocks.0.mlp", "blocks.1.mlp"), 0.1)
    out, _ = answers(router, 3)
    small = float(torch.tensor(-5.0).sigmoid())
    assert out[0] == 11.0 and out[1] == pytest.approx(0.3 * 2 + 0.7 * 1 + 10 * (1 + small), rel=1e-5)
    assert out[2] == pytest.approx(2 + small + 10 * (1 + 2 * small), rel=1e-5)  # blocks.0 kept 2, blocks.1 kept 10
    router.hard = True
    assert answers(router, 3)[0] == [11.0, 12.0, 12.0], "hard is what HarmoniCa does with this table"
    assert answers(HarmoniCa(table(r.tolist())), 3)[0] == [11.0, 12.0, 12.0]


@cache
def denoiser() -> Denoiser:
    torch.manual_seed(3)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=2,heads=2")
    for key, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.02 if key.startswith("time") else 0.12)
    nn.init.zeros_(net.blocks[1].mlp[2].weight)  # a branch that always says the same: nothing is lost by keeping it
    return Denoiser(net.eval().requires_grad_(False), catalog.build("processes", "flow"))


def test_training_drops_what_does_no_harm_and_leaves_the_network_alone():
    weights = {k: v.clone() for k, v in denoiser().backbone.state_dict().items()}
    recipe = Recipe(steps=4, trajectories=18, batch=2, lr=0.4, share=0.6, beta=1e-3, proxy_every=9)
    found = train_harmonica(denoiser(), (1, 4, 4), None, recipe)
    assert all(torch.equal(v, weights[k]) for k, v in denoiser().backbone.state_dict().items())
    assert not any("forward" in m.__dict__ for m in denoiser().backbone.modules()), "nothing stays attached"
    computed = found.arrays["router"].sigmoid() > recipe.threshold
    assert not computed[1:, found.settings["branches"].index("blocks.1.mlp")].any()
    assert computed[1:].any()
    dearer = train_harmonica(denoiser(), (1, 4, 4), None, replace(recipe, share=1.0, proxy_every=0))
    assert dearer.settings["share"] > found.settings["share"] + 0.1
    detach, run = attach(denoiser().backbone, HarmoniCa(found)), Run()
    sample(denoiser(), (2, 1, 4, 4), catalog.build("solvers", "ddim"), 4, run=run)
    detach()
    assert 1 - run.record.skipped() == pytest.approx(found.settings["share"])
    assert float(found.arrays["weight"][1:].mean()) == pytest.approx(1, rel=1e-4), "the proxy's weights have mean 1"

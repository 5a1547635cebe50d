"""What the contract leaves unsaid of Elastic: routers of each sample, widths, offsets, and learning."""

from __future__ import annotations

import pytest
import torch

from ornstein.acceleration.elastic import Elastic, learn_elastic
from ornstein.acceleration.layers.router import FEATURES, Fit, Lesson, decide, fit
from ornstein.acceleration.skip import Skip
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running

D, L, M = 32, 4, 128


def network(depth: int = L):
    torch.manual_seed(3)
    net = catalog.build("backbones", f"dit:channels=1,patch=2,width={D},depth={depth},heads=4,classes=10")
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


NET = network()
DENOISER = Denoiser(NET, catalog.build("processes", "flow"))


def routers(seed: int = 0, **changed) -> Artefact:
    torch.manual_seed(seed)
    order = torch.stack([torch.randperm(M) for _ in range(L)]).short()
    arrays = {"gate.time": torch.randn(L, FEATURES, 2 * D) * 0.3, "gate.in": torch.randn(L, D, 4),
              "gate.out": torch.randn(L, 4) * 9, "gate.bias": torch.zeros(L), "width.in": torch.randn(L, D, 4),
              "width.out": torch.randn(L, 4, 4) * 9, "width.bias": torch.zeros(L, 4), "order": order}  # fmt: skip
    return Artefact("elastic", {**arrays, **{k.replace("_", "."): v for k, v in changed.items()}})


def draw(plugin=None, ids=tuple(range(6)), steps=6, solver="ddim", run=None):
    detach = attach(NET, plugin) if plugin is not None else (lambda: None)
    try:
        return sample(DENOISER, (len(ids), 1, 8, 8), catalog.build("solvers", solver), steps, ids=ids, seed=0, run=run,
                      cond={"label": torch.tensor(ids) % 10})  # fmt: skip
    finally:
        detach()


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_routers_decide_for_each_sample_by_itself(solver):
    plugin, run = Elastic(routers(), band=0.2, begin=0.3), Run()
    together = draw(plugin, solver=solver, run=run)
    facts = run.record.facts["elastic"]["cond"]
    assert facts["rows_passed_by"] % 6 and 0.05 < run.record.skipped() < 0.95
    for i in range(6):
        assert torch.allclose(draw(plugin, (i,), solver=solver)[0], together[i], atol=1e-4)


def test_a_closed_gate_is_the_identity():
    shut = routers(gate_out=torch.zeros(L, 4), gate_bias=torch.tensor([9.0, -9.0, 9.0, -9.0]),
                   width_out=torch.zeros(L, 4, 4), width_bias=torch.tensor([0.0, 0, 0, 9]).repeat(L, 1))  # fmt: skip
    assert torch.equal(draw(Elastic(shut, band=-1.0)), draw(Skip(((1, 3),) * 6)))
    opened = routers(gate_out=torch.zeros(L, 4), gate_bias=torch.full((L,), 9.0), width_out=torch.zeros(L, 4, 4),
                     width_bias=torch.tensor([0.0, 0, 0, 9]).repeat(L, 1))  # fmt: skip
    assert torch.equal(draw(Elastic(opened)), draw())


def test_what_is_taught_is_what_runs():
    """Masks and mixtures answer as slices and skips do, and the cost told is that of the record."""
    found, lesson, run = routers(), Lesson(), Run()
    fast = draw(Elastic(found, band=-1.0), steps=1, run=run)
    assert torch.allclose(draw(Elastic(found, lesson=lesson), steps=1), fast, atol=1e-5)
    costs, done = torch.stack(lesson.costs).sum(0).mean().item(), 0.0
    attention, mlp = 4 * D + 2 * 16, 8 * D
    for k in range(L):
        at = run.record.computed_at
        done += (at[f"blocks.{k}/block"] * attention + at[f"blocks.{k}.mlp/branch"] * mlp) / (12 * D + 2 * 16) / L
    assert 0.2 < done < 0.8 and abs(costs - done) < 1e-5


def test_an_offset_serves_so_many_evaluations():
    run = Run()
    draw(Elastic(share=0.75, uses=2, begin=0.0), steps=10, run=run)
    computed = {k: v for k, v in run.record.computed_at.items() if v < 10}
    assert list(computed.values()) == [4.0]  # 1 in 3
    run = Run()
    draw(Elastic(share=0.75, uses=9, begin=0.5), steps=8, run=run)
    assert min(run.record.computed_at.values()) == 4.0


def test_an_offset_is_what_the_block_said():
    """Asked again for the same, the blocks that are served from offsets answer as they would."""
    x, t, run = torch.randn(3, 1, 8, 8), torch.tensor([0.2, 0.5, 0.7]), Run()
    cond, plain = {"label": torch.arange(3)}, NET(x, t, {"label": torch.arange(3)})
    detach = attach(NET, Elastic(share=0.5, begin=0.0))
    with running(run):
        for k in range(3):
            with calling(Clock(k, 0, 3, t=t, ids=(0, 1, 2))):
                out = NET(x, t, cond)
    detach()
    assert run.record.skipped() > 0.3 and torch.allclose(out, plain, atol=1e-5)


def test_routers_of_another_network_are_refused():
    with pytest.raises(OrnsteinError, match=r"for 4 blocks in a row, and the network has 3.*Learn them"):
        attach(network(3), Elastic(routers()))
    other = routers(gate_in=torch.randn(L, D + 4, 4))
    with pytest.raises(OrnsteinError, match="do not fit these routers"):
        draw(Elastic(other))
    with pytest.raises(OrnsteinError, match="no routers of 'elastic'"):
        Elastic(Artefact("dydit", {}))


def test_decisions_are_hard_forwards_and_soft_backwards():
    logit = torch.tensor([-2.0, 0.3, 5.0], requires_grad=True)
    hard = decide(logit, Lesson(), tau=5.0)
    assert torch.allclose(hard.detach(), torch.tensor([0.0, 1.0, 1.0]), atol=1e-6)
    hard.sum().backward()
    s = (logit.detach() / 5).sigmoid()
    assert torch.allclose(logit.grad, s * (1 - s) / 5)
    noisy = decide(torch.zeros(4000), Lesson(torch.Generator().manual_seed(0)))
    assert abs(noisy.mean() - 0.5) < 0.03
    assert torch.equal(decide(logit.detach()), torch.tensor([0.0, 1.0, 1.0]))


def test_learning_reaches_the_target_and_leaves_the_network_alone(tmp_path):
    def data(source, batch):
        return torch.randn(batch, 1, 8, 8, generator=source), {"label": torch.randint(10, (batch,), generator=source)}

    before = {k: v.clone() for k, v in NET.state_dict().items()}
    found = learn_elastic(DENOISER, data, Fit(target=0.6, steps=24, batch=4, lr=0.15))
    assert abs(found.settings["cost"] - 0.6) < 0.12
    assert all(torch.equal(v, before[k]) for k, v in NET.state_dict().items())
    assert not any("forward" in m.__dict__ for m in NET.modules())
    again = Elastic(found.save(tmp_path / "routers.safetensors"), band=-1.0)
    assert torch.equal(draw(again), draw(Elastic(found, band=-1.0)))
    arrays = {k: v.clone() for k, v in found.arrays.items()}
    lesson = Lesson()
    told = fit(DENOISER, Elastic(Artefact("elastic", arrays), lesson=lesson), arrays, lesson, data, Fit(target=0.6, steps=2))
    assert len(told) == 2 and not any(a.requires_grad for a in arrays.values())

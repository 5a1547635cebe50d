"""What the contract leaves unsaid of the token methods: which tokens, where they stand, and what becomes of the others."""

from __future__ import annotations

import itertools

import pytest
import torch

from ornstein.acceleration.diffsparse import DiffSparse, calibrate
from ornstein.acceleration.jit import JiT
from ornstein.acceleration.layers.allocation import allocate
from ornstein.acceleration.layers.tokens import as_answer, as_tokens, lift, pick, put
from ornstein.acceleration.ras import RAS
from ornstein.acceleration.tome import ToMe
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running

COND = {"label": torch.arange(2)}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=32,depth=3,heads=4,classes=10")
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.12)
    return net.eval().requires_grad_(False)


def answers(net, plugin, inputs, times=None, memories=None):
    detach, run, out = attach(net, plugin), Run(), []
    try:
        with running(run):
            for k, x in enumerate(inputs):
                t = torch.full((2,), 1 - 0.1 * k) if times is None else times[k]
                with calling(Clock(k, 0, len(inputs), t=t, ids=(0, 1))):
                    out.append(net(x, t, COND))
    finally:
        detach()
    if memories is not None:
        memories.extend(run.memories.values())
    return out


def plain(net, x, k):
    return net(x, torch.full((2,), 1 - 0.1 * k), COND)


def test_tokens_go_out_and_come_back():
    x, index = torch.randn(2, 3, 8, 12), torch.tensor([[1, 5], [23, 2]])
    tokens = as_tokens(x, 24)
    assert tokens.shape == (2, 24, 12) and torch.equal(as_answer(tokens, x.shape), x)
    assert torch.equal(tokens[0, 7, :3], x[0, :, 2, 2]), "patches row by row, channels last"
    changed = put(tokens, index, -pick(tokens, index))
    assert torch.equal(changed[0, 5], -tokens[0, 5]) and torch.equal(changed[1, 5], tokens[1, 5])


def test_lifting_keeps_anchors_and_constants():
    index = torch.tensor([[0, 3, 17, 35]])
    values = torch.randn(1, 4, 2)
    assert torch.equal(pick(lift(values, index, 6, 6), index), values)
    assert torch.allclose(lift(torch.ones(1, 4, 2), index, 6, 6), torch.ones(1, 36, 2))


def test_merging_equal_tokens_changes_nothing_but_the_cost(net):
    """Two kinds of tokens without positions: the mean of equal ones is what they were, and softmax weighs kinds as before
    when both shrink alike."""
    match = ToMe(0.5)._match(torch.randn(2, 16, 8), 0, 8)
    left, where, merged = match["left"], match["where"], match["merged"]
    assert left.shape == (2, 8) and torch.equal(torch.cat([left, merged], 1).sort(1).values, torch.arange(16).expand(2, -1))
    assert torch.equal(where.gather(1, left), torch.arange(8).expand(2, -1))
    x = torch.randn(2, 2, 8)[:, torch.arange(16) // 4 % 2]  # rows of two kinds, so that cells hold both
    match = ToMe(0.5)._match(x, 0, 8)
    assert torch.allclose(pick(pick(x, match["left"]), match["where"]), x), "a source goes to a destination of its kind"


@pytest.mark.parametrize("step", range(4))
def test_one_destination_in_each_cell(step):
    targets, sources = ToMe(columns=6)._split(24, step)
    cells = (targets // 6 // 2 * 3 + targets % 6 // 2).sort().values
    assert torch.equal(cells, torch.arange(6)) and len(sources) == 18
    assert len(ToMe()._split(15, step)[0]) == 4, "no square: plain runs of four"


def test_merging_rows_at_times_of_their_own(net):
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.95, 0.5])
    (mixed,) = answers(net, ToMe(0.5, window=(0.0, 0.9)), [x], [t])
    (merged,) = answers(net, ToMe(0.5), [x], [t])
    assert torch.allclose(mixed[0], net(x, t, COND)[0], atol=1e-5) and torch.allclose(mixed[1], merged[1], atol=1e-5)
    assert not torch.allclose(merged[0], mixed[0], atol=1e-3)


def test_active_tokens_see_the_right_positions_and_keys(net):
    """The input does not change: whatever is active, its answer is that of the full network."""
    x = torch.randn(2, 1, 8, 8)
    times = [torch.full((2,), 0.5)] * 6
    full = net(x, times[0], COND)
    for out in answers(net, RAS(0.25, warmup=1, refresh=0), [x] * 6, times):
        assert torch.allclose(out, full, atol=1e-5)
    for out in answers(net, DiffSparse(0.75), [x] * 6, times):
        assert torch.allclose(out, full, atol=1e-5)


def test_passive_tokens_keep_their_answer_and_none_starves(net):
    inputs, memories = [torch.randn(2, 1, 8, 8) for _ in range(12)], []
    out = answers(net, RAS(0.25, warmup=1, refresh=0, starvation=3.0), inputs, memories=memories)
    held = [(as_tokens(b, 16) == as_tokens(a, 16)).all(2) for a, b in itertools.pairwise(out)]
    assert all((h.sum(1) == 12).all() for h in held)
    memories.clear()
    answers(net, RAS(0.25, warmup=1, refresh=0, starvation=3.0), inputs[:1] * 12, memories=memories)
    assert (memories[0]["passed"].sum(1) == 11 * 12).all() and memories[0]["passed"].max() <= 10, "every token is visited"


def test_keys_of_active_tokens_are_renewed(net):
    """Two of the 16 tokens change and are active: what these say is what they say in full."""
    x = torch.randn(2, 1, 8, 8)
    y, times = x.clone(), [torch.full((2,), 0.5)] * 2
    y[:, :, :2, :4] += 1
    memories = []
    out = answers(net, DiffSparse(0.5), [x, y], times, memories)
    store = memories[0]["store"]
    detach, run = attach(net, DiffSparse(0.0)), Run()
    with running(run), calling(Clock(0, 0, 2, t=0.5, ids=(0, 1))):
        net(y, times[0], COND)
    detach()
    fresh = next(iter(run.memories.values()))["store"]
    assert torch.allclose(store["blocks.0.attn/k"], fresh["blocks.0.attn/k"], atol=1e-5)
    assert not torch.allclose(out[0], out[1], atol=1e-2)


def test_the_most_alike_are_merged():
    part, x = ToMe(0.5), torch.randn(1, 16, 8)
    targets, sources = part._split(16, 0)
    x[0, sources[[2, 5, 9]]] = x[0, targets[[3, 0, 1]]]
    match = part._match(x, 0, 3)
    assert set(match["merged"][0].tolist()) == set(sources[[2, 5, 9]].tolist())


@pytest.mark.parametrize("faithful, starves", [(False, False), (True, True)])
def test_the_released_sign_lets_tokens_starve(faithful, starves):
    part = RAS(0.25, sign=-1, faithful=faithful, starvation=1.0)
    memory = {"score": torch.rand(1, 16, generator=torch.Generator().manual_seed(0)) + 0.5, "passed": torch.zeros(1, 16)}
    seen = set()
    for _ in range(12):
        active = part._choose(memory)
        seen |= set(active[0].tolist())
        memory["passed"] = (memory["passed"] + 1).scatter_add(1, active, torch.full(active.shape, -1.0))
    assert (len(seen) < 16) == starves


def test_joining_tokens_are_moved_to_their_aim(net):
    """With g = (y - y*) / t, DDIM carries y - g t along exactly as from y*."""
    part, memory = JiT((0.5,), (0.25,)), {"density": 1.0, "tokens": 4, "shape": [1, 2, 2]}
    y, t = torch.randn(1, 4, 1), torch.tensor([[[0.6]]])
    memory |= {"active": torch.tensor([[0]]), "variance": torch.rand(1, 4), "clean": torch.randn(1, 4, 1)}
    memory |= {"eps": torch.randn(1, 4, 1), "gap": torch.zeros(1, 4, 1)}
    part._join(y, t, memory)
    aim = 0.4 * memory["clean"] + 0.6 * memory["eps"]
    assert torch.allclose((y - memory["gap"] * t)[:, 1:], aim[:, 1:]) and memory["gap"][0, 0] == 0
    s, v = 0.3, torch.randn(1, 4, 1)
    moved = y + (s - t) * (v + memory["gap"])
    assert torch.allclose((moved - memory["gap"] * s)[:, 1:], (aim + (s - t) * v)[:, 1:], atol=1e-6)


def test_stages_of_jit(net):
    part, memories = JiT((0.25, 0.5), (0.25, 0.5)), []
    assert [part.density(Clock(k, 0, 8)) for k in range(8)] == [0.25, 0.25, 0.5, 0.5, 1, 1, 1, 1]
    answers(net, part, [torch.randn(2, 1, 8, 8)] * 4, memories=memories)
    assert memories[0]["active"].shape == (2, 16)


def test_allocation_is_exact():
    source = torch.Generator().manual_seed(0)
    for _ in range(20):
        costs = torch.rand(5, 3, generator=source)
        saved = torch.tensor([0, 1, 2]).expand(5, -1)
        budget = int(torch.randint(0, 11, (), generator=source))
        found = allocate(costs, saved, budget)
        sums = [(sum(costs[i, s].item() for i, s in enumerate(c)), c) for c in itertools.product(range(3), repeat=5)
                if sum(c) >= budget]  # fmt: skip
        assert found.sum() >= budget
        assert costs.gather(1, found[:, None]).sum().item() == pytest.approx(min(sums)[0], abs=1e-6)
    with pytest.raises(OrnsteinError, match="At most 10"):
        allocate(costs, saved, 11)


def test_a_calibrated_table(net, tmp_path):
    denoiser = Denoiser(net, catalog.build("processes", "flow"))
    ddim = catalog.build("solvers", "ddim")
    found = calibrate(denoiser, (2, 1, 8, 8), ddim, 2, 0.25, cond=COND, levels=(0, 1))
    shares = Artefact.load(found.save(tmp_path / "table"), "diffsparse").check(denoiser, grid="uniform").arrays["shares"]
    assert shares.shape == (2, 6) and (shares[0] == 0).all() and shares[1].sum() >= 3
    run, part = Run(), DiffSparse(table=tmp_path / "table")
    detach = attach(net, part)
    try:
        sample(denoiser, (2, 1, 8, 8), ddim, 2, cond=COND, run=run)
        facts = run.record.facts["diffsparse"]["cond"]
        assert facts["tokens_kept"] == shares.sum() * 16
        with pytest.raises(OrnsteinError, match="Sample with 2 steps"):
            sample(denoiser, (2, 1, 8, 8), ddim, 3, cond=COND)
    finally:
        detach()
    with pytest.raises(OrnsteinError, match="6 layers, not for 2"):
        attach(catalog.build("backbones", "dit:channels=1,patch=2,width=32,depth=1,heads=4"), part)


@pytest.mark.parametrize("make", [lambda: ToMe(0.9), lambda: RAS(0), lambda: JiT((0.4,), (0.1, 0.2)), lambda: DiffSparse(2)])
def test_senseless_settings_are_refused(make):
    with pytest.raises(OrnsteinError):
        make()

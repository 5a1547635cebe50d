"""The seam on native networks: exact when neutral, gone when detached, apart between runs, branches, samples and threads."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ornstein.core import catalog
from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import State, sample
from ornstein.core.seam import _CLOCK, _RUN, Run, attach, attention_lse, calling, gather, running
from ornstein.core.sites import Seat

GRAINS = ("network", "block", "branch", "attention")


class Plugin:
    """Computes; `replaces` is what it claims to decide."""

    def __init__(self, *grains, replaces="", names=None):
        self.grains, self.effects, self.names, self.seen = (
            grains or ("block",),
            Effects.of(replaces=replaces),
            names,
            [],
        )

    def select(self, sites):
        return [s for s in sites if s.grain in self.grains and (self.names is None or s.name in self.names)]

    def start(self):
        return {}

    def around(self, site, clock, streams, run, memory):
        self.seen.append((site, clock, dict(streams)))
        return run(streams)


class Other(Plugin):
    pass


class Adds(Plugin):
    """x -> times x + by (a ramp over the channels), after the site: two of these do not commute."""

    def __init__(self, by, times):
        super().__init__("block", names=("blocks.1",))
        self.by, self.times = by, times

    def around(self, site, clock, streams, run, memory):
        return {k: v * self.times + self.by * torch.linspace(0, 1, v.shape[-1]) for k, v in run(streams).items()}


class Alternates(Plugin):
    """Computes in even steps, and remembers for the odd ones."""

    def around(self, site, clock, streams, run, memory):
        if clock.step % 2 == 0 or site.name not in memory:
            memory[site.name] = run(streams)
        return memory[site.name]


class Rowwise(Plugin):
    """Only some rows are computed at a time; the others are put together from their own calls."""

    def around(self, site, clock, streams, run, memory):
        batch = len(next(iter(streams.values())))
        parts = [(r, run(streams, r)) for r in (torch.arange(0, batch, 2), torch.arange(1, batch, 2)) if len(r)]
        out = {}
        for rows, part in parts:
            for k, v in part.items():
                out.setdefault(k, v.new_empty(batch, *v.shape[1:]))[rows] = v
        return out


def make(**settings):
    torch.manual_seed(0)
    settings = {"channels": 1, "patch": 2, "width": 32, "depth": 3, "heads": 2, "classes": 4} | settings
    net = catalog.load("backbones", "dit")(**settings)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net.eval().requires_grad_(False)


@pytest.fixture
def net():
    return make()


def denoise(net):
    return Denoiser(net, catalog.build("processes", "flow"), null=net.null_condition)


def go(net, run=None, ids=(0, 1, 2), steps=4, seed=0, **settings):
    cond = {"label": torch.tensor(ids) % 4}
    return sample(denoise(net), (len(ids), 1, 8, 8), catalog.build("solvers", "ddim"), steps, cond=cond, ids=ids, seed=seed,
                  run=run, **settings)  # fmt: skip


def ask(net, branch="cond", step=0, run=None, ids=(0, 1, 2), x=None):
    """One call inside of a run."""
    x = torch.randn(len(ids), 1, 8, 8, generator=torch.manual_seed(1)) if x is None else x
    with running(run or Run()), calling(Clock(step, 0, 2, 0.5, branch, tuple(ids))):
        return net(x, torch.full((len(ids),), 0.5), {"label": torch.arange(len(ids)) % 4})


def clean(net):
    return not any("forward" in m.__dict__ for m in net.modules())


# ------------------------------------------------------------------------------------------------- neutral and detached


@pytest.mark.parametrize("grain", GRAINS)
def test_neutral_and_detached_are_bit_exact(net, grain):
    plain, plugin = go(net), Plugin(grain)
    detach = attach(net, plugin)
    assert torch.equal(go(net), plain) and plugin.seen
    detach()
    assert torch.equal(go(net), plain) and clean(net)
    detach()  # twice is no harm
    assert clean(net)


def test_a_forward_that_was_replaced_before_comes_back(net):
    block = net.blocks[0]
    block.forward = lambda x, *rest: x + 1  # someone else's hook
    mine, plain = block.forward, go(net)
    detach = attach(net, Plugin())
    assert torch.equal(go(net), plain)
    detach()
    assert block.__dict__["forward"] is mine and torch.equal(go(net), plain)


def test_outside_of_a_run_nothing_happens(net):
    plugin, x = Adds(1.0, 2.0), torch.randn(2, 1, 8, 8)
    given = x, torch.tensor([0.5, 0.5]), {"label": torch.arange(2)}
    plain = net(*given)
    detach = attach(net, plugin)
    assert torch.equal(net(*given), plain)
    with running(Run()):  # a run, but no clock: nobody says where this call stands
        assert torch.equal(net(*given), plain)
    assert not torch.equal(ask(net, ids=(0, 1), x=x), plain)
    detach()


def test_plugins_nest_in_the_order_of_attachment(net):
    """The first attached is the outermost; re-attached in another order, the answer is another."""
    one, two = Adds(1.0, 1.0), Adds(0.0, 3.0)
    first = attach(net, one)
    second = attach(net, two)
    outer = ask(net)  # 3 x + 1
    first()
    first = attach(net, one)
    inner = ask(net)  # 3 (x + 1)
    first()
    second()
    both = attach(net, [one, two])
    assert torch.equal(ask(net), outer) and not torch.allclose(inner, outer, atol=1e-3)
    both()
    for by, expected in ((1.0, outer), (3.0, inner)):
        detach = attach(net, Adds(by, 3.0))
        assert torch.allclose(ask(net), expected, atol=1e-5)
        detach()
    assert clean(net)


def test_detaching_one_leaves_the_other(net):
    one, two = Plugin("block"), Plugin("block", "attention")
    first, second = attach(net, one), attach(net, two)
    first()
    ask(net)
    assert not one.seen and len(two.seen) == 6
    second()
    assert clean(net)


def test_one_plugin_twice_is_detached_once_at_a_time(net):
    plugin = Plugin("network")
    first, second = attach(net, plugin), attach(net, plugin)
    first()
    ask(net)
    assert len(plugin.seen) == 1
    second()
    assert clean(net)


def test_a_deep_copy_is_plain_and_has_its_own_weights(net):
    detach = attach(net, Adds(1.0, 2.0))
    twin = copy.deepcopy(net)
    detach()
    assert torch.equal(ask(twin), ask(net))
    for p in twin.parameters():
        p.mul_(0.5)
    assert not torch.allclose(ask(twin), ask(net))


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("one, two", [
    (("block", None), ("block", None)), (("block", ("blocks.1",)), ("branch", ("blocks.1.mlp",))),
    (("network", None), ("attention", None)), (("branch", ("blocks.0.attn",)), ("block", ("blocks.0",))),
])  # fmt: skip
def test_two_owners_of_one_thing_are_refused(net, one, two):
    detach = attach(net, Plugin(one[0], replaces="evaluation", names=one[1]))
    before = [m for m in net.modules() if "forward" in m.__dict__]
    with pytest.raises(OrnsteinError, match="Other and Plugin would both decide evaluation at site '") as error:
        attach(net, Other(two[0], replaces="evaluation attention", names=two[1]))
    assert "Use one of them" in error.value.remedy
    assert [m for m in net.modules() if "forward" in m.__dict__] == before  # nothing was attached
    detach()


@pytest.mark.parametrize("two", [Plugin("block", replaces="attention"), Plugin("block", replaces="evaluation", names=("blocks.2",)),
                                 Plugin("block")])  # fmt: skip
def test_what_does_not_collide_is_let_in(net, two):
    detach = attach(net, [Plugin("block", replaces="evaluation", names=("blocks.0", "blocks.1")), two])
    ask(net)
    detach()
    assert two.seen and clean(net)


def test_block_one_does_not_hold_block_ten():
    net = make(depth=11)
    detach = attach(net, [Plugin("block", replaces="evaluation", names=("blocks.1",)),
                          Plugin("block", replaces="evaluation", names=("blocks.10",))])  # fmt: skip
    detach()


def test_a_plugin_that_would_do_nothing_is_refused(net):
    first = Plugin("block")
    with pytest.raises(OrnsteinError, match="Plugin would do nothing on DiT: no site fits it") as error:
        attach(net, [first, Plugin("stage")])
    assert "block/block" in error.value.remedy and clean(net)
    detach = attach(net, Plugin("block"))  # what was refused does not come back with the next
    ask(net)
    detach()
    assert not first.seen


def test_scopes_keep_requests_apart(net):
    """Two owners of one thing may share a network where no run sees both."""
    one, two = object(), object()
    first = attach(net, Adds(1.0, 1.0), scope=one)
    second = attach(net, Adds(0.0, 3.0), scope=two)
    plain = ask(net, run=Run())
    a, b = (ask(net, run=Run(scope=s)) for s in (one, two))
    first()
    second()
    assert torch.equal(ask(net), plain) and len({t.sum().item() for t in (plain, a, b)}) == 3
    for s, adds, expected in ((one, Adds(1.0, 1.0), a), (two, Adds(0.0, 3.0), b)):
        detach = attach(net, adds)
        assert torch.equal(ask(net, run=Run(scope=s)), expected)
        detach()


def test_an_exception_restores_the_context(net):
    class Fails(Plugin):
        def around(self, site, clock, streams, run, memory):
            raise RuntimeError("out of luck")

    outer, clock = Run(), Clock(branch="outer")
    for grain in GRAINS:
        detach = attach(net, Fails(grain))
        with running(outer), calling(clock):
            with pytest.raises(RuntimeError, match="luck"):
                go(net)
            assert _RUN.get() is outer and _CLOCK.get() is clock
        detach()
    assert _RUN.get() is None and _CLOCK.get() is None
    q = torch.randn(1, 1, 2, 4)
    assert torch.equal(
        F.scaled_dot_product_attention(q, q, q), F.scaled_dot_product_attention(q, q, q)
    )  # no mode is left


# ---------------------------------------------------------------------------------------------------------------- memory


def test_memory_is_keyed_by_branch_and_by_samples(net):
    plugin, run = Alternates(), Run()
    detach = attach(net, plugin)
    x = torch.randn(2, 1, 8, 8)
    answers = {}
    for branch, ids, scale in (("cond", (0, 1), 1.0), ("uncond", (0, 1), 2.0), ("cond", (2, 3), 3.0)):
        answers[branch, ids] = ask(net, branch, 0, run, ids, x * scale)
    for (branch, ids), answer in answers.items():  # in odd steps the blocks come from memory; x no longer matters
        assert torch.equal(ask(net, branch, 1, run, ids, x * 9), answer)
    assert {k[1:3] for k in run.memories} == {("cond", (0, 1)), ("uncond", (0, 1)), ("cond", (2, 3))}
    assert not torch.equal(
        ask(net, "cond", 1, Run(), (0, 1), x * 9), answers["cond", (0, 1)]
    )  # another run knows nothing
    run.clear()
    assert not torch.equal(ask(net, "cond", 1, run, (0, 1), x * 9), answers["cond", (0, 1)])
    detach()


def test_memory_follows_a_resampling(net):
    """Run.gather after State.take: each row of the memory goes where its particle goes."""
    run, detach = Run(), attach(net, Alternates())
    x = torch.randn(3, 1, 8, 8)
    answer = ask(net, "cond", 0, run, (0, 1, 2), x)
    source = NoiseSource.of(0, (0, 1, 2))
    state = State(x, 1, {"noise": source, "before": x.clone()}, source, {"label": torch.arange(3)}, (0, 1, 2))
    index = torch.tensor([2, 0, 2])
    taken = state.take(index, generation=1)
    run.gather(taken.taken, state.ids, taken.ids)
    assert {k[2] for k in run.memories} == {taken.ids} and len(set(taken.ids)) == 3
    with running(run), calling(Clock(1, 0, 2, 0.5, "cond", taken.ids)):
        after = net(x * 9, torch.full((3,), 0.5), taken.cond)
    assert torch.allclose(after, answer[index], atol=1e-6)
    assert torch.equal(taken.memory["before"], x[index]) and taken.cond["label"].tolist() == [2, 0, 2]
    assert not torch.equal(taken.noise.keys[0], taken.noise.keys[2])  # two copies of one particle part ways
    detach()


def test_gather_goes_through_nests():
    tree = {"a": [torch.arange(3), (torch.arange(4), None)], "b": Clock(t=torch.arange(3.0)), "c": 5}
    out = gather(tree, torch.tensor([2, 2]), 3)
    assert out["a"][0].tolist() == [2, 2] and out["a"][1][0].tolist() == [0, 1, 2, 3] and out["a"][1][1] is None
    assert out["b"].t.tolist() == [2.0, 2.0] and out["c"] == 5
    assert gather(torch.zeros(3, 2), torch.tensor([0]), 3, rank=3).shape == (3, 2)


def test_a_batch_does_not_couple_its_samples(net):
    detach = attach(net, Alternates())
    together = go(net)
    for i in range(3):
        assert torch.allclose(go(net, ids=(i,)), together[i : i + 1], atol=1e-5)
    detach()


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("text", [0, 8])
def test_some_rows_alone_are_the_whole_batch(grain, text):
    net = make(text_dim=text)
    cond = {"label": torch.arange(3)}
    if text:
        cond |= {
            "tokens": torch.randn(3, 5, 8),
            "pooled": torch.randn(3, 8),
            "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool(),
        }
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    plain = net(x, t, cond)
    detach = attach(net, Rowwise(grain))
    with running(Run()), calling(Clock(ids=(0, 1, 2))):
        rows = net(x, t, cond)
    detach()
    assert torch.allclose(rows, plain, atol=1e-5)


def test_rotary_tables_are_not_taken_for_samples():
    """16 tokens and a batch of 16: tables [tokens, d] belong to all."""
    net = make()
    detach = attach(net, Rowwise("block"))
    x, t = torch.randn(16, 1, 8, 8), torch.rand(16)
    cond = {"label": torch.arange(16) % 4}
    with running(Run()), calling(Clock(ids=tuple(range(16)))):
        rows = net(x, t, cond)
    detach()
    assert torch.allclose(rows, net(x, t, cond), atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- threads


def test_threads_share_an_attached_network(net):
    detach = attach(net, Alternates())
    jobs = [(tuple(range(1 + i % 3)), i % 4, 3 + i % 3) for i in range(8)]
    alone = [go(net, ids=ids, seed=seed, steps=steps) for ids, seed, steps in jobs]
    found, gate = [None] * 8, threading.Barrier(8)

    def work(i):
        gate.wait()
        ids, seed, steps = jobs[i]
        found[i] = go(net, Run(), ids, steps, seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    detach()
    assert all(torch.equal(a, b) for a, b in zip(alone, found))


def test_a_run_does_not_see_others_come_and_go(net):
    """One thread samples while another attaches and detaches, under scopes of its own."""
    mark, stop = object(), threading.Event()
    detach = attach(net, Alternates(), scope=mark)
    expected, wrong = go(net, Run(scope=mark)), []

    def churn():
        while not stop.is_set():
            attach(net, Plugin("block", "attention"), scope=object())()

    thread = threading.Thread(target=churn)
    thread.start()
    for _ in range(12):
        wrong += [1] if not torch.equal(go(net, Run(scope=mark)), expected) else []
    stop.set()
    thread.join()
    detach()
    assert not wrong and clean(net)


# ------------------------------------------------------------------------------------------------------------- attention


def test_attention_sees_queries_keys_values_and_mask():
    net = make(text_dim=8)
    plugin = Plugin("attention")
    cond = {
        "label": torch.arange(2),
        "tokens": torch.randn(2, 5, 8),
        "pooled": torch.randn(2, 8),
        "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool(),
    }
    detach = attach(net, plugin)
    with running(Run()), calling(Clock(ids=(0, 1))):
        net(torch.randn(2, 1, 8, 8), torch.tensor([0.5, 0.5]), cond)
    detach()
    assert [s.role for s, _, _ in plugin.seen] == ["attention", "cross_attention"] * 3
    for site, _, streams in plugin.seen:
        length = 16 if site.role == "attention" else 5
        assert list(streams) == ["q", "k", "v", "mask"] and streams["q"].shape == (2, 2, 16, 16)
        assert streams["k"].shape == streams["v"].shape == (2, 2, length, 16)
        if site.role == "attention":
            assert streams["mask"] is None
        else:
            assert streams["mask"].expand(2, 2, 16, 5)[1, 0, 0].tolist() == [True, True, False, False, False]


def test_attention_can_be_given_other_keys(net):
    """Keys and values of the row's neighbour: the answer is that of attending over there."""

    class Swaps(Plugin):
        def around(self, site, clock, streams, run, memory):
            return run(streams | {"k": streams["k"].flip(0), "v": streams["v"].flip(0)})

    detach = attach(net, Swaps("attention"))
    swapped = ask(net, ids=(0, 1))
    detach()
    assert not torch.allclose(swapped, ask(net, ids=(0, 1)), atol=1e-4)


class TwoAttention(nn.Module):
    """Attention over text and over a picture in one module."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(4, 4)

    def forward(self, x):
        q = self.to_q(x)[:, None]
        return (F.scaled_dot_product_attention(q, q, q) + F.scaled_dot_product_attention(q, q, 2 * q, scale=0.5))[:, 0]


class TwoBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = TwoAttention()

    def forward(self, x):
        x = x + self.attn(x)
        return x


def test_two_attentions_of_one_module_have_two_memories():
    net = nn.Module()
    net.blocks, net.forward = nn.ModuleList([TwoBlock()]), lambda x: net.blocks[0](x)
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        plain, run, plugin = net.blocks[0](x), Run(), Alternates("attention")
        detach = attach(net, plugin)
        for step in (0, 1):
            with running(run), calling(Clock(step, ids=(0, 1))):
                assert torch.equal(net.blocks[0](x), plain)
        detach()
    assert set(run.record.asked_at) == {"blocks.0.attn/attention", "blocks.0.attn#1/attention"}


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_lse_is_attention_and_log_sum_exp(kind):
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    mask = {"none": None, "bool": torch.rand(2, 1, 5, 7) > 0.3, "float": torch.randn(2, 3, 5, 7).double()}[kind]
    if kind == "bool":
        mask[..., 0] = True
    out, lse = attention_lse(q, k, v, mask)
    assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v, attn_mask=mask), atol=1e-12)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / 8**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if kind == "bool" else scores + mask
    assert torch.allclose(lse, torch.log(scores.exp().sum(-1)), atol=1e-12)


def test_partial_attentions_merge_by_their_lse():
    q, k, v = (torch.randn(1, 2, n, 4, dtype=torch.float64) for n in (3, 6, 6))
    whole, _ = attention_lse(q, k, v)
    (a, la), (b, lb) = (attention_lse(q, k[:, :, s], v[:, :, s]) for s in (slice(0, 2), slice(2, 6)))
    weight = torch.sigmoid(la - lb)[..., None]
    assert torch.allclose(weight * a + (1 - weight) * b, whole, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------- record


def test_the_record_counts_what_was_asked_and_computed(net):
    run, detach = Run(), attach(net, Alternates())
    go(net, run, steps=4)
    detach()
    assert run.record.asked_at["blocks.1/block"] == 4 and run.record.computed_at["blocks.1/block"] == 2
    assert run.record.skipped() == 0.5 and run.record.calls["evaluations"] == 4 and run.record.steps == 4


def test_the_record_says_which_part_left_out_how_much(net):
    class Half(Plugin):
        """Computes the first row of two."""

        def around(self, site, clock, streams, run, memory):
            first = run(streams, torch.arange(len(streams["x"]) // 2))
            return {k: torch.cat([v, streams[k][len(v) :]]) for k, v in first.items()}

    run, detach = Run(), attach(net, [Alternates("block", names=("blocks.1",)), Half("block", names=("blocks.0",)), Plugin()])
    go(net, run, steps=4, ids=(0, 1))
    detach()
    parts = run.record.as_dict()["parts"]
    assert parts["Alternates"] == {"asked": 4, "left": 2} and parts["Half"] == {"asked": 4, "left": 2}
    assert parts["Plugin"] == {"asked": 2 + 2 + 4, "left": 0}  # half the rows, half the steps, all


def test_half_the_rows_in_two_calls_is_all_of_them(net):
    run, detach = Run(), attach(net, Rowwise("block", names=("blocks.0",)))
    go(net, run, steps=2)
    detach()
    assert run.record.left_by["Rowwise"] < 1e-9 and run.record.asked_of["Rowwise"] == 2


def test_a_skipped_block_hands_on_what_it_was_given(net):
    class Skips(Plugin):
        def around(self, site, clock, streams, run, memory):
            return streams

    detach = attach(net, Skips("block"))
    skipped = ask(net)
    detach()
    assert not torch.allclose(skipped, ask(net), atol=1e-3)
    net.blocks = nn.ModuleList()
    assert torch.equal(skipped, ask(net))


class PairBlock(nn.Module):
    """One stream or two, as it is asked."""

    def __init__(self):
        super().__init__()
        self.ff = nn.Sequential(nn.Linear(4, 4))

    def forward(self, hidden, text=None, split=False):
        hidden = hidden + self.ff(hidden)
        if split:
            return text, hidden
        return hidden


def test_only_the_first_argument_of_a_branch_is_a_stream():
    class Branch(nn.Module):
        seat = Seat("branch", "mlp")

        def forward(self, x, scale, shift=0.0):
            return x * scale + shift

    class Only(nn.Module):
        seat = Seat("block", "block", ("x",))

        def __init__(self):
            super().__init__()
            self.mlp = Branch()

        def forward(self, x):
            return self.mlp(x, torch.tensor(2.0), shift=torch.tensor(1.0))

    net, plugin = nn.Sequential(Only()), Plugin("branch")
    attach(net, plugin)
    with running(Run()), calling(Clock(ids=(0,))):
        assert float(net(torch.ones(1, 1))) == 3
    assert [set(streams) for _, _, streams in plugin.seen] == [{"x"}]


def test_streams_that_are_none_decide_the_form_of_an_answer():
    class SkipsLater(Plugin):
        def around(self, site, clock, streams, run, memory):
            return run(streams) if clock.step == 0 else streams

    net = nn.Module()
    net.blocks = nn.ModuleList([PairBlock()])
    hidden, text = torch.randn(2, 4), torch.randn(2, 4)
    detach = attach(net, SkipsLater("block"))
    for step in (0, 1):
        with torch.no_grad(), running(Run()), calling(Clock(step, ids=(0, 1))):
            pair, one = net.blocks[0](hidden, text, split=True), net.blocks[0](hidden, text=None)
        assert isinstance(pair, tuple) and torch.equal(pair[0], text) and isinstance(one, torch.Tensor)
    assert torch.equal(pair[1], hidden) and torch.equal(one, hidden)
    detach()


def test_an_answer_without_the_sites_streams_is_refused(net):
    class Loses(Plugin):
        def around(self, site, clock, streams, run, memory):
            return {"y": streams["x"]}

    detach = attach(net, Loses("block"))
    with pytest.raises(OrnsteinError, match="'blocks.0' was skipped before it was ever computed, with the streams y"):
        ask(net)
    detach()


# ----------------------------------------------------------------------------------------------- rows, networks, gradients


def test_sites_inside_are_asked_about_the_rows_that_are_computed(net):
    """A block that computes two of three rows: what sits within sees their ids and their memory, and the record the share."""
    inner = Plugin("branch", names=("blocks.1.attn",))

    class Two(Plugin):
        def around(self, site, clock, streams, run, memory):
            kept = dict(streams)
            some = run(streams, torch.tensor([2, 0]))
            return {k: kept[k].index_copy(0, torch.tensor([2, 0]), v) for k, v in some.items()}

    run, detach = Run(), attach(net, [Two("block", names=("blocks.1",)), inner])
    ask(net, ids=(5, 6, 7), run=run)
    detach()
    (_, clock, streams), *rest = inner.seen
    assert not rest and clock.ids == (7, 5) and clock.share == pytest.approx(2 / 3)
    assert len(next(iter(streams.values()))) == 2
    assert run.record.computed_at["blocks.1/block"] == pytest.approx(2 / 3)
    assert run.record.asked_at["blocks.1.attn/branch"] == pytest.approx(2 / 3)
    assert _CLOCK.get() is None


def test_one_plugin_on_two_networks_has_two_memories(net):
    other, plugin, run = make(), Plugin("block", names=("blocks.0",)), Run()
    detach = [attach(net, plugin), attach(other, plugin)]
    ask(net, run=run)
    ask(other, run=run)
    for d in detach:
        d()
    assert len(run.memories) == 2 and len({id(m) for m in run.memories.values()}) == 2


def test_memories_of_windows_do_not_outlive_a_resampling(net):
    run, plugin = Run(), Plugin("block")
    for ids in ((0, 1), ((0, 3), (1, 3)), (8, 9)):
        run.memory(plugin, Clock(ids=ids))["x"] = torch.arange(2)
    run.gather(torch.tensor([1, 1]), (0, 1), ((1, 0, 0), (1, 0, 1)))
    left = {k[2]: m for k, m in run.memories.items()}
    assert set(left) == {((1, 0, 0), (1, 0, 1)), (8, 9)}
    assert left[(1, 0, 0), (1, 0, 1)]["x"].tolist() == [1, 1]
    run.forget((8, 9))
    assert len(run.memories) == 1


def test_attention_hands_out_positions_and_log_sum_exp(net):
    plain, seen = ask(net), []

    class Looks(Plugin):
        def around(self, site, clock, streams, run, memory):
            got = run({**streams, "lse": None})
            seen.append((run.bound["arguments"], got["lse"], streams))
            return {"out": got["out"]}

    detach = attach(net, Looks("attention"))
    assert torch.allclose(ask(net), plain, atol=1e-5)
    detach()
    arguments, lse, streams = seen[0]
    cos, _ = arguments["rotary"]
    assert cos.shape[0] == streams["q"].shape[2] and lse.shape == streams["q"].shape[:3]
    scores = streams["q"] @ streams["k"].transpose(-1, -2) * streams["q"].shape[-1] ** -0.5
    assert torch.allclose(lse, scores.logsumexp(-1), atol=1e-5)


def test_a_network_that_nobody_holds_is_let_go():
    import gc
    import weakref

    network = make()
    attach(network, Plugin("network"))
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None

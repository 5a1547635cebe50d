"""The seam on eleven foreign networks: what is found, what is exact, what is isolated, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed")

from zoo import BATCH, ZOO, call, specimen

from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.roles import layers_by_role
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat, find_sites

ANIMALS = pytest.mark.parametrize("name", ZOO)
WHOLE = ("block", "stage")  # the grains that cover a network


class Sits:
    """A plugin at the sites of some grains; it computes."""

    effects = Effects.of()

    def __init__(self, *grains):
        self.grains, self.seen = grains or WHOLE, []

    def select(self, sites):
        return [s for s in sites if s.grain in self.grains]

    def start(self):
        return {}

    def around(self, site, clock, streams, run, memory):
        self.seen.append((site, streams))
        return run(streams)


class Skips(Sits):
    """Hands back what came in."""

    def around(self, site, clock, streams, run, memory):
        self.seen.append((site, streams))
        return streams if site.role not in ("down",) else {"output_states": run(streams)["output_states"], **streams}


class Caches(Sits):
    """Computes a site once per memory and hands the same out ever after."""

    def around(self, site, clock, streams, run, memory):
        if site.name not in memory:
            memory[site.name] = run(streams)
        return memory[site.name]


class Rows(Sits):
    """Computes the rows of the batch one at a time."""

    def around(self, site, clock, streams, run, memory):
        parts = [run(streams, torch.tensor([i])) for i in range(BATCH)]
        return {k: _join([p[k] for p in parts]) for k in parts[0]}


def _join(values):
    if isinstance(values[0], tuple):
        return tuple(map(_join, zip(*values)))
    return None if values[0] is None else torch.cat(values)


def under(net, inputs, run, branch="cond", step=0):
    with running(run), calling(Clock(step=step, steps=2, branch=branch, ids=tuple(range(BATCH)))):
        return call(net, inputs)


def other(inputs):
    """The same call on another sample and at another time."""
    key = "sample" if "sample" in inputs else "hidden_states"
    return inputs | {key: inputs[key] * 0.5 + 0.1, "timestep": inputs["timestep"] * 0.5}


@ANIMALS
def test_sites_are_found(name):
    net, _ = specimen(name)
    animal, sites = ZOO[name], find_sites(net)
    covering = [s for s in sites if s.grain in WHOLE]
    runs = [sum(s.stage == n for s in covering) for n in range(covering[-1].stage + 1)]
    assert tuple(runs) == animal.runs
    assert [s.depth for s in covering] == list(range(sum(animal.runs)))
    assert {s.grain for s in covering} == {"stage" if animal.unet else "block"}
    assert {s.role for s in sites if s.grain == "branch"} == set(animal.roles)
    if animal.unet:
        assert [s.role for s in covering] == ["down", "down", "mid", "up", "up"]


@ANIMALS
def test_branches_and_attention_are_asked(name):
    net, inputs = specimen(name)
    plugin, run = Sits("network", *WHOLE, "branch", "attention"), Run()
    detach = attach(net, plugin)
    under(net, inputs, run)
    detach()
    assert set(run.record.asked_at) == {f"{s.name}/{s.grain}" for s in find_sites(net)}
    attentions = [streams for site, streams in plugin.seen if site.grain == "attention"]
    assert len(attentions) == ZOO[name].sdpa
    for streams in attentions:
        q, k, v, mask = (streams[n] for n in ("q", "k", "v", "mask"))
        assert q.ndim == 4 and q.shape[0] == BATCH and k.shape[:3] == v.shape[:3] and q.shape[-1] == k.shape[-1]
        assert q.shape[2] == max(q.shape[2], 1) and (mask is None or mask.shape[-1] == k.shape[2])


@ANIMALS
@pytest.mark.parametrize("grain", ["network", "cover", "branch", "attention"])
def test_neutral_and_detach_are_bit_exact(name, grain):
    net, inputs = specimen(name)
    plain = call(net, inputs)
    detach = attach(net, Sits(*(WHOLE if grain == "cover" else (grain,))))
    assert torch.equal(under(net, inputs, Run()), plain)
    assert torch.equal(call(net, inputs), plain)  # outside of a run
    with torch.no_grad(), running(Run()), calling(Clock(ids=tuple(range(BATCH)))):
        record = net(**inputs)  # the foreign record instead of a tuple
    assert torch.equal(record.sample, plain) and type(record).__name__.endswith("Output")
    detach()
    assert torch.equal(under(net, inputs, Run()), plain)
    assert not any("forward" in m.__dict__ for m in net.modules())


@ANIMALS
def test_skipping_every_block_changes_the_output(name):
    net, inputs = specimen(name)
    net = copy.deepcopy(net)  # on which nothing was ever computed under the seam
    plain, plugin = call(net, inputs), Skips()
    if ZOO[name].unet:  # stages change shapes, so only the middle one is a residual
        plugin.select = lambda sites: [s for s in sites if s.role == "mid"]
    detach = attach(net, plugin)
    skipped = under(net, inputs, Run())
    detach()
    assert skipped.shape == plain.shape and not torch.allclose(skipped, plain, atol=1e-3)


@ANIMALS
@pytest.mark.parametrize("grain", ["network", "cover", "branch"])
def test_a_cache_reproduces_the_first_call(name, grain):
    net, inputs = specimen(name)
    grains = WHOLE if grain == "cover" else (grain,)
    run, detach = Run(), attach(net, Caches(*grains))
    first = under(net, inputs, run)
    computed = sum(run.record.computed_at.values())
    second = under(net, other(inputs) if grain != "branch" else inputs, run, step=1)
    detach()
    assert sum(run.record.computed_at.values()) == computed > 0  # nothing was computed again
    if grain == "cover" and not ZOO[name].unet:  # what lies after the blocks still sees the time
        again = call(net, inputs)
        assert torch.equal(first, again) and second.shape == first.shape
    else:
        assert torch.equal(first, call(net, inputs))
    if grain != "cover":
        assert torch.equal(second, first)


@ANIMALS
def test_a_span_of_cached_blocks_is_the_first_output(name):
    """The very same call with every block taken from memory: bit-exact, and no block is computed."""
    net, inputs = specimen(name)
    run, detach = Run(), attach(net, Caches())
    first = under(net, inputs, run)
    run.record.computed_at.clear()
    assert torch.equal(under(net, inputs, run, step=1), first)
    assert not run.record.computed_at
    changed = other(inputs) | {
        "timestep": inputs["timestep"]
    }  # other pixels, same time: the blocks alone see the pixels
    if not ZOO[name].unet:
        assert torch.equal(under(net, changed, run, step=1), first)  # so the blocks cover the network
    detach()


def _branches(net, inputs, memory=None):
    """(cond, uncond, cond again, uncond again) under a cache."""
    run = Run()
    if memory is not None:  # the mutant: one memory for every branch
        run.memory = lambda plugin, clock, network: memory
    detach = attach(net, Caches())
    out = [under(net, i, run, b, s) for s in (0, 1) for b, i in (("cond", inputs), ("uncond", other(inputs)))]
    detach()
    return out


@ANIMALS
def test_branches_never_mix(name):
    net, inputs = specimen(name)
    cond, uncond = call(net, inputs), call(net, other(inputs))
    assert not torch.allclose(cond, uncond, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(_branches(net, inputs), (cond, uncond, cond, uncond)))
    assert not all(torch.equal(a, b) for a, b in zip(_branches(net, inputs, {}), (cond, uncond, cond, uncond)))


@ANIMALS
def test_rows_alone_are_the_whole_batch(name):
    net, inputs = specimen(name)
    detach = attach(net, Rows())
    run = Run()
    rows = under(net, inputs, run)
    detach()
    assert torch.allclose(rows, call(net, inputs), atol=2e-5)
    assert sum(run.record.computed_at.values()) == pytest.approx(sum(ZOO[name].runs))  # by the share of rows


@ANIMALS
def test_streams_have_their_arity(name):
    net, inputs = specimen(name)
    plugin = Sits()
    detach = attach(net, plugin)
    under(net, inputs, Run())
    detach()
    given = {frozenset(k for k, v in streams.items() if v is not None) for _, streams in plugin.seen}
    both = {"hidden_states", "encoder_hidden_states"}
    two = name in (
        "SD3Transformer2DModel",
        "FluxTransformer2DModel",
        "QwenImageTransformer2DModel",
        "CogVideoXTransformer3DModel",
    )
    assert given == ({frozenset(both)} if two else {frozenset(both), frozenset({"hidden_states"})} if "Flux2" in name
                     else {frozenset({"hidden_states"})})  # fmt: skip
    if "Flux2" in name:  # the single blocks are given None
        assert any(streams.get("encoder_hidden_states", 0) is None for _, streams in plugin.seen)


@ANIMALS
def test_every_layer_has_a_sensible_role(name):
    net, _ = specimen(name)
    roles = layers_by_role(net)
    layers = [n for n, m in net.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d))]
    assert set(layers) <= set(roles)
    assert {"temporal", "qkv", "attention_out", "head", "embedding"} <= set(roles.values())
    assert "other" not in roles.values()
    for layer, role in roles.items():
        leaf, inside = layer.rpartition(".")[2], "block" in layer
        if leaf in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_qkv_mlp_proj"):
            assert role == "qkv", layer
        if ".to_out" in layer or leaf == "to_add_out":
            assert role == "attention_out", layer
        if any(w in f".{layer}" for w in (".ff.", ".ffn.", ".ff_context.", "_mlp.net.")):
            assert role == "ffn", layer
        if any(
            w in layer
            for w in ("timestep_embedder", "time_emb", "_mod.", "modulation", "norm1.linear", "norm_out.linear")
        ):
            assert role == "temporal", layer
        if not inside and leaf in ("proj_out", "conv_out", "proj_out_2"):
            assert role == "head", layer
        assert not (inside and role == "head"), layer


class OddBlock(torch.nn.Module):
    """A block whose return statement says nothing."""

    def __init__(self):
        super().__init__()
        self.ff = torch.nn.Sequential(torch.nn.Linear(4, 4))

    def forward(self, hidden_states):
        return hidden_states + self.ff(hidden_states)


class OddNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(OddBlock() for _ in range(2))

    def forward(self, hidden_states, timestep=None, return_dict=False):
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return (hidden_states,)


def test_an_unreadable_block_is_refused_with_the_line_that_mends_it():
    net = OddNet()
    with pytest.raises(OrnsteinError, match="the streams of OddBlock cannot be read") as error:
        attach(net, Sits())
    line = error.value.remedy
    assert line == 'Declare them: seats={"OddBlock": Seat("block", streams=("hidden_states",))}.'
    seats = eval(line.split("=", 1)[1].rstrip("."), {"Seat": Seat})  # the advice itself, taken literally
    inputs = {"hidden_states": torch.randn(BATCH, 4)}
    plain, run = call(net, inputs), Run()
    detach = attach(net, Sits(), seats)
    assert torch.equal(under(net, inputs, run), plain) and len(run.record.asked_at) == 2
    detach()


def test_what_was_remembered_is_handed_out_in_the_form_asked_for():
    """A tuple in one run, a record in another, from one cache of the whole network."""
    net, inputs = specimen("DiTTransformer2DModel")
    runs, detach = (Run(), Run()), attach(net, Caches("network"))
    for step in (0, 1):
        for run, asked in zip(runs, (False, True)):
            with torch.no_grad(), running(run), calling(Clock(step=step, ids=(0, 1))):
                answer = net(**inputs, return_dict=asked)
            assert isinstance(answer, tuple) != asked and torch.equal(answer[0], call(net, inputs))
    detach()
    fresh = copy.deepcopy(net)
    plugin = Sits("network")
    plugin.around = lambda site, clock, streams, run, memory: {"out": streams["hidden_states"]}
    detach = attach(fresh, plugin)
    with pytest.raises(OrnsteinError, match="the site 'network' was skipped before it was ever computed"):
        under(fresh, inputs, Run())
    detach()


def test_a_network_without_blocks_is_refused():
    with pytest.raises(OrnsteinError, match="no blocks were found in Linear") as error:
        attach(torch.nn.Linear(2, 2), Sits())
    assert "seats=" in error.value.remedy


def test_linear_attention_has_no_attention_site():
    sites = find_sites(specimen("SanaTransformer2DModel")[0])
    assert {s.role for s in sites if s.grain == "attention"} == {"cross_attention"}


def test_attention_of_another_kernel_is_refused():
    net, inputs = specimen("PixArtTransformer2DModel")
    net = copy.deepcopy(net)
    from diffusers.models.attention_processor import AttnProcessor

    net.set_attn_processor(AttnProcessor())  # plain matrix products
    detach = attach(net, Sits("attention"))
    with pytest.raises(OrnsteinError, match="is not torch's scaled_dot_product_attention"):
        under(net, inputs, Run())
    detach()


def test_a_skipped_stage_without_its_skips_is_refused():
    net, inputs = specimen("UNet2DModel")
    plugin = Sits()
    plugin.select = lambda sites: [s for s in sites if s.role == "down"]
    plugin.around = lambda site, clock, streams, run, memory: streams
    detach = attach(net, plugin)
    with pytest.raises(OrnsteinError, match="must hand on hidden_states, output_states"):
        under(net, inputs, Run())
    detach()


def test_a_deep_copy_of_an_attached_network_is_plain():
    net, inputs = specimen("FluxTransformer2DModel")
    detach = attach(net, Skips())
    twin = copy.deepcopy(net)
    detach()
    for parameter in twin.parameters():
        parameter.data.mul_(1.1)
    assert not torch.allclose(call(twin, inputs), call(net, inputs))  # its own weights are used
    assert torch.equal(under(twin, inputs, Run()), call(twin, inputs))  # and nothing is attached

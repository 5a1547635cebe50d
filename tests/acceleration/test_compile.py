"""Compiled blocks under caches of a fixed schedule: no recompilation after the first run, no graph break, the same answers.

What is compiled is the `forward` of a module at the grain of the plugin's sites: the seam puts its Python around the compiled
function. `module.compile()` would have the compiler trace through the seam itself, and is not what is promised here.
"""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from small import denoiser

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.seam import attach

if sys.platform == "win32":
    pytest.skip("torch.compile is not tried on this platform", allow_module_level=True)
try:
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    if not dynamo.is_dynamo_supported():
        raise RuntimeError("this Python is newer than what this torch can compile")
except (ImportError, RuntimeError) as error:
    pytest.skip(f"torch.compile is not available: {error}", allow_module_level=True)

SCHEDULED = {"block": ("lesa:interval=3", "ilf:interval=2", "spandelta:interval=2", "skip:blocks=((),(1,),(),(2,),(),(1,),(),())"),
             "branch": ("taylorseer:interval=3", "broadcast:attention=2,mlp=2", "harmonica:interval=3")}  # fmt: skip


def draw(host, plugin=None):
    detach = attach(host.backbone, plugin) if plugin else (lambda: None)
    try:
        return sample(host, (3, 1, 8, 8), catalog.build("solvers", "ddim"), 8, cond={"label": torch.arange(3)})
    finally:
        detach()


def compiled(grain, backend):
    net = copy.deepcopy(denoiser().backbone)
    for block in net.blocks:
        for module in (block,) if grain == "block" else (block.attn, block.mlp):
            module.forward = torch.compile(module.forward, backend=backend, dynamic=False, fullgraph=True)
    return Denoiser(net, denoiser().process)


CALLS = []


def counting(graph, inputs):
    """A backend that compiles nothing and counts."""

    def run(*args):
        CALLS.append(1)
        return graph.forward(*args)

    return run


@pytest.mark.parametrize("grain, backend", [("block", counting), ("branch", counting), ("block", "aot_eager")])
def test_nothing_is_compiled_anew_and_no_graph_breaks(grain, backend):
    dynamo.reset()
    counters.clear()
    try:
        host = compiled(grain, backend)
        draw(host)
        warm = dict(counters["stats"])
        assert warm["unique_graphs"] == {"block": 1, "branch": 2}[grain], "one graph serves the modules of all blocks"
        with dynamo.config.patch(error_on_recompile=True):
            for text in SCHEDULED[grain]:
                part = catalog.build("acceleration", text)
                CALLS.clear()
                out = draw(host, part)
                assert backend != counting or 0 < len(CALLS) < 8 * (4 if grain == "block" else 8), "some, not all"
                plain = draw(denoiser(), part)
                assert torch.allclose(out, plain, atol=1e-5) and not torch.equal(plain, draw(denoiser())), text
                assert dict(counters["stats"]) == warm, f"{text} compiled something anew"
        assert not counters["graph_break"] and not counters["unimplemented"]
        forward = host.backbone.blocks[0].forward if grain == "block" else host.backbone.blocks[0].mlp.forward
        assert hasattr(forward, "_torchdynamo_orig_callable"), "detaching leaves the compiled function in its place"
    finally:
        dynamo.reset()
        counters.clear()


def test_compiled_branches_serve_a_plugin_of_blocks():
    dynamo.reset()
    try:
        host = compiled("branch", "eager")
        draw(host)
        with dynamo.config.patch(error_on_recompile=True):
            part = catalog.build("acceleration", "lesa:interval=3")
            assert torch.allclose(draw(host, part), draw(denoiser(), part), atol=1e-5)
    finally:
        dynamo.reset()

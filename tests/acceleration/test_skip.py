"""What the contract leaves unsaid of Skip: which block is left out when, on native and foreign networks, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein.acceleration.skip import Skip
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat


class Block(nn.Module):
    seat = Seat("block", streams=("x",))

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


class Net(nn.Module):
    """Says which blocks were computed: block k adds 10^k."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(10.0**k) for k in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def answers(plugin, steps=3, evaluations=1):
    net, run, out = Net(), Run(), []
    detach = attach(net, plugin)
    with running(run):
        for k in range(steps):
            for e in range(evaluations):
                with calling(Clock(k, e, steps, ids=(0,))):
                    out.append(net(torch.zeros(1, 1)).item())
    detach()
    return out, run.record


def test_the_listed_blocks_are_left_out_at_their_steps_alone():
    out, record = answers(Skip(((), (0, 2), (3,))))
    assert out == [1111.0, 1010.0, 111.0]
    assert record.facts["skip"]["cond"] == {"cache_bytes": 0, "blocks": 9, "blocks_skipped": 3}
    assert answers(Skip(((1,), ())), 2, evaluations=2)[0] == [1101.0, 1101.0, 1111.0, 1111.0]
    assert answers(Skip(((0, 1, 2, 3),)), 1)[0] == [0.0]


def test_a_found_schedule_says_the_same(tmp_path):
    blocks = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    found = Artefact("schedule", {"blocks": blocks})
    path = found.save(tmp_path / "found.safetensors")
    assert Skip(schedule=found).blocks == ((), (0, 2), (3,))
    assert answers(catalog.build("acceleration", f"skip:schedule='{path}'"))[0] == [1111.0, 1010.0, 111.0]
    with pytest.raises(OrnsteinError, match="skips no blocks"):
        Skip(schedule=Artefact("schedule", {"times": torch.ones(2)}))


def test_what_does_not_fit_is_refused():
    with pytest.raises(OrnsteinError, match="block 7 of a network of 4 blocks"):
        attach(Net(), Skip(((7,),)))
    with pytest.raises(OrnsteinError, match="for 3 steps, and this run has 2"):
        answers(Skip(((1,), (), ())), 2)
    for wrong in ((1, 2), ((-1,),), (("a",),)):
        with pytest.raises(OrnsteinError, match="one list per step"):
            Skip(wrong)


@pytest.mark.parametrize("kind", ["SD3Transformer2DModel", "FluxTransformer2DModel"])
def test_a_foreign_network_with_one_block_left_out(kind):
    """As if that block were an identity on its streams."""
    pytest.importorskip("diffusers")
    import zoo

    net, inputs = zoo.specimen(kind)
    plain, detach = zoo.call(net, inputs), attach(net, Skip(((1,), ())))
    said = []
    try:
        with running(Run()):
            for k in range(2):
                with calling(Clock(k, 0, 2, ids=(0, 1))):
                    said.append(zoo.call(net, inputs))
    finally:
        detach()
    assert torch.equal(said[1], plain) and not torch.equal(said[0], plain) and said[0].isfinite().all()

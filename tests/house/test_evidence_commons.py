"""What the evidence uses in the place of torch's own, because that imports the compiler: the same steps and counts."""

import subprocess
import sys
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ornstein.core import catalog
from ornstein.evidence._adam import Adam
from ornstein.evidence._flops import Flops
from ornstein.evidence.solvers import _singlestep


def learned(choose):
    net, source = nn.Linear(4, 3), torch.Generator().manual_seed(0)
    unused = nn.Parameter(torch.ones(2))
    with torch.no_grad():
        net.weight.normal_(generator=source)
        net.bias.zero_()
    chooser = choose([*net.parameters(), unused])
    for k in range(20):
        if isinstance(chooser, Adam):
            chooser.lr = 0.1 / (1 + k)
        else:
            chooser.param_groups[0]["lr"] = 0.1 / (1 + k)
        chooser.zero_grad()
        net(torch.randn(8, 4, generator=source)).square().sum().backward()
        chooser.step()
    assert torch.equal(unused, torch.ones(2))
    return torch.cat([net.weight.flatten(), net.bias]).detach()


def test_adam_is_that_of_torch():
    for betas, decay in (((0.9, 0.999), 0.0), ((0.8, 0.95), 0.1)):
        mine, theirs = partial(Adam, lr=0.1, betas=betas, decay=decay), partial(torch.optim.AdamW, lr=0.1, betas=betas, fused=True)
        assert torch.equal(learned(mine), learned(partial(theirs, weight_decay=decay)))


def test_flops_are_those_of_torch():
    for spec in ("dit:channels=1,patch=2,width=32,depth=2,heads=2", "unet:channels=1,width=16,multipliers=(1,2)"):
        net = catalog.build("backbones", spec)
        given = torch.zeros(2, 1, 8, 8), torch.ones(2)
        with torch.no_grad(), Flops() as counted:
            net(*given)
        with torch.no_grad(), FlopCounterMode(display=False, depth=9) as counter:
            net(*given)
        assert counted.total == counter.get_total_flops() > 0
        assert dict(counted.found) == {k: sum(v.values()) for k, v in counter.get_flop_counts().items() if sum(v.values())}


def test_most_steps_within_the_calls():
    for solver, rule in (("heun", "uniform"), ("rhork:method=kutta3", "uniform"), ("ddim", "logsnr")):
        made = {n: _singlestep.walk("vp", solver, n, rule)[1] for n in range(1, 14)}
        for nfe in (3, 7, 12):
            assert _singlestep.steps_for("vp", solver, nfe, rule) == max(n for n in made if made[n] <= nfe)


def test_neither_brings_the_compiler_in():
    said = ("import sys, torch; from ornstein.evidence._adam import Adam; from ornstein.evidence._flops import Flops\n"
            "net = torch.nn.Linear(2, 2); a = Adam(net.parameters(), 0.1)\n"
            "with Flops() as f: net(torch.ones(1, 2)).sum().backward()\n"
            "from ornstein.cost import flops, peak_bytes\n"
            "assert flops(lambda: net(torch.ones(1, 2))) == 8 and peak_bytes(lambda: torch.ones(9)) == 36\n"
            "a.step(); sys.exit('torch._dynamo' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", said]).returncode == 0

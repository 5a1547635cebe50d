"""Calibration files travel, and are refused where they do not belong."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ornstein.core.artefact import Artefact, describe
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture


class Rule:
    def __init__(self, scale=1.0):
        self.scale = scale

    def __repr__(self):
        return f"Rule({self.scale}, <function f at 0x7f00aa>)"

    def predict(self, denoiser, x, t, cond, clock):
        return denoiser(x, t, cond, clock)


def artefact(denoiser) -> Artefact:
    arrays = {"f": torch.arange(6.0).reshape(2, 3).t(), "i": torch.tensor([3, 4]), "d": torch.ones((), dtype=torch.float64)}
    return Artefact("gates", arrays, {"order": 2, "names": ["a"]}, describe(denoiser, grid="karras", shape=(1, 8, 8)))


def test_there_and_back(tmp_path):
    one = artefact(Denoiser(nn.Linear(2, 2), Flow()))
    two = Artefact.load(one.save(tmp_path / "gates.safetensors"), "gates")
    assert [p.name for p in tmp_path.iterdir()] == ["gates.safetensors"]
    assert (two.kind, two.settings, two.made_for) == (one.kind, one.settings, one.made_for)
    assert two.arrays.keys() == one.arrays.keys()
    assert all(torch.equal(v, two.arrays[k]) and v.dtype == two.arrays[k].dtype for k, v in one.arrays.items())
    shared = torch.ones(3)
    assert Artefact.load(Artefact("x", {"a": shared, "b": shared}).save(tmp_path / "x"), "x").arrays.keys() == {"a", "b"}


def test_files_that_are_refused(tmp_path):
    file = artefact(Denoiser(nn.Linear(2, 2), Flow())).save(tmp_path / "a.safetensors")
    with pytest.raises(OrnsteinError, match=r"there is no file of 'gates' at .*none. Calibrate it"):
        Artefact.load(tmp_path / "none", "gates")
    with pytest.raises(OrnsteinError, match="holds 'gates', not 'statistics'"):
        Artefact.load(file, "statistics")
    whole = file.read_bytes()
    save_file({"w": torch.ones(2)}, tmp_path / "weights")
    save_file({"w": torch.ones(2)}, tmp_path / "list", metadata={"artefact": "[1]"})
    (tmp_path / "text").write_text("{}")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(whole[:-5])
    (tmp_path / "head").write_bytes(whole[:40])
    for name in ("weights", "list", "text", "empty", "cut", "head"):
        with pytest.raises(OrnsteinError, match=f"{name} is not an artefact"):
            Artefact.load(tmp_path / name, "gates")


def test_used_elsewhere():
    net = nn.Linear(2, 2)
    plain = Denoiser(net, Flow())
    one = artefact(plain)
    assert one.check(plain, Flow(), "karras", (1, 8, 8)) is one and one.check() is one
    with pytest.raises(OrnsteinError, match=r"'gates' was calibrated for model '.{16}', not for '.{16}'. Calibrate it again"):
        one.check(Denoiser(nn.Linear(2, 2), Flow()))
    with pytest.raises(OrnsteinError, match=r"for model '.{16}', not for ''"):
        one.check(Mixture.ring(Flow()))
    for wrong, words in (({"process": VP()}, r"process 'Flow\(.*', not for 'VP\("), ({"grid": "uniform"}, "grid 'karras'"),
                         ({"shape": (3, 8, 8)}, "shape '1x8x8', not for '3x8x8'"), ({"denoiser": Denoiser(net, VP())}, "process"),
                         ({"denoiser": guide(plain, Rule())}, "guidance '', not for 'Rule")):  # fmt: skip
        with pytest.raises(OrnsteinError, match=words):
            one.check(**wrong)
    two = artefact(guide(plain, Rule(2.0), Rule(3.0)))
    assert two.made_for["guidance"] == "Rule(2.0, <function f>), Rule(3.0, <function f>)"
    with pytest.raises(OrnsteinError, match="guidance"):
        two.check(guide(plain, Rule(2.0)))
    assert describe(Mixture.ring(VP()))["model"] == "" and artefact(Mixture.ring(VP())).check(Mixture.ring(VP()))

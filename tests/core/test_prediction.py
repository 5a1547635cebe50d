"""A prediction is told in one kind and read in any."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Output, Prediction
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP


def made(kind: str = "x0"):
    x0, noise = torch.randn(2, 3, 4, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    process = VP()
    x, L = process.corrupt(x0, noise, t), process.at(t, x0)
    return Prediction(x, L, kind, x0), x0, noise


def test_lazily_and_once():
    said, x0, noise = made()
    assert said.x0 is x0 and said.value is x0
    assert said.noise is said.noise and torch.allclose(said.noise, noise)


def test_an_edit_leaves_the_old_one_alone():
    said, x0, noise = made()
    said.output = Output(x0, taps={"h": x0})
    edited = said.like("noise", 2 * noise)
    assert edited.kind == "noise" and torch.allclose(edited.noise, 2 * noise) and torch.allclose(said.noise, noise)
    assert not torch.allclose(edited.x0, x0) and edited.output is said.output


def test_nothing_left_at_the_data():
    """At s = 0 the noise cannot be told from x and x0: it is 0, not a division by 0."""
    x = torch.randn(2, 3)
    for kind, value in (("x0", x), ("velocity", -x)):
        said = Prediction(x, Flow().at(0.0, x), kind, value)
        assert torch.isfinite(said.noise).all() and torch.allclose(said.x0, x)


def test_flow_velocity_is_noise_less_data():
    x0, noise = torch.randn(2, 3, 4)
    x = Flow().corrupt(x0, noise, 0.3)
    assert torch.allclose(Prediction(x, Flow().at(0.3, x), "x0", x0).velocity, noise - x0, atol=1e-6)


def test_pure_noise_end_of_a_flow():
    """At t = 1 there is no signal: a velocity still tells x0, which a noise prediction cannot."""
    x0, noise = torch.randn(2, 3, 4)
    said = Prediction(noise, Flow().at(1.0, noise), "velocity", noise - x0)
    assert torch.allclose(said.x0, x0, atol=1e-6) and torch.allclose(said.noise, noise, atol=1e-6)


def test_unknown_kinds():
    said, x0, _ = made()
    with pytest.raises(OrnsteinError, match="unknown prediction kind 'nose'. Did you mean 'noise'?"):
        Prediction(said.x, said.levels, "nose", x0)
    with pytest.raises(OrnsteinError, match="unknown prediction kind 'scor'. Did you mean 'score'?"):
        said.get("scor")

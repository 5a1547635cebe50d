"""What a part has learned is refused for another model, guidance, grid or shape, unless it is forced."""

import pytest
import torch

import ornstein
from ornstein.acceleration.magcache import MagCache
from ornstein.calibrated import misfits
from ornstein.core.artefact import Artefact, describe
from ornstein.core.errors import OrnsteinError


@pytest.fixture(scope="module")
def digits():
    return ornstein.load("digits")


def learned(tmp_path, **made_for):
    return Artefact("magcache", {"ratios": torch.full((8,), 0.9, dtype=torch.float64)}, {"samples": 1}, made_for).save(
        tmp_path / "learned.safetensors")  # fmt: skip


def test_what_it_was_made_for_runs(digits, tmp_path):
    file = learned(tmp_path, **describe(digits.denoiser, "beta", digits.shape))
    made = digits.generate("3", steps=8, accelerate=f"magcache:threshold=0.1,calibrated='{file}'")
    assert "forced" not in made.record.facts and made.record.left_by["MagCache"] > 0


@pytest.mark.parametrize("what, told, changes", [
    ("model", "0123456789abcdef", {}), ("process", "VP()", {}), ("shape", "1x16x16", {}), ("grid", "uniform", {}),
    ("guidance", "CFG(scale=9)", {"guidance": "cfg:scale=2"})])  # fmt: skip
def test_another_use_is_refused_and_can_be_forced(digits, tmp_path, what, told, changes):
    file = learned(tmp_path, **(describe(digits.denoiser, "beta", digits.shape) | {what: told}))
    how = {"steps": 8, "accelerate": f"magcache:threshold=0.1,calibrated='{file}'"} | changes
    with pytest.raises(OrnsteinError, match=rf"MagCache was calibrated for {what} '.*Calibrate it again"):
        digits.generate("3", **how)
    assert f"for {what}" in digits.generate("3", **how, force=True).record.facts["forced"][0]


def test_artefacts_themselves_and_what_says_nothing(digits):
    made = Artefact("magcache", {"ratios": torch.ones(8, dtype=torch.float64)}, {"samples": 1}, {"model": "of another"})
    assert "model 'of another'" in misfits([MagCache(0.1, calibrated=made)], digits.denoiser, "beta", digits.shape)[0]
    bare = Artefact("magcache", made.arrays, made.settings)
    assert misfits([MagCache(0.1, calibrated=bare), object()], digits.denoiser, "beta", digits.shape) == []

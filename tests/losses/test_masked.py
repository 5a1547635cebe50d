"""The masked bound, reckoned without chance."""

from itertools import product

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.losses.pretraining.masked import MaskedCrossEntropy
from ornstein.processes.masked import Masked
from ornstein.testbeds import Tokens

DATA = torch.tensor([[0, 1, 2], [0, 2, 2], [1, 1, 0], [2, 1, 2]])
MASKS = torch.tensor(list(product([False, True], repeat=3)))


def bed(schedule: str) -> Tokens:
    return Tokens(DATA, Masked(3, schedule), torch.arange(1.0, 5.0), flip=0.1)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "loglinear"])
def test_the_bound_is_the_entropy_at_the_true_conditionals(schedule):
    """Sum over masks, integral over t by 4000 midpoints: -log p(x0) for each x0, per token."""
    tokens, loss = bed(schedule), MaskedCrossEntropy()
    t, x0 = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000, torch.tensor([0, 2, 1])
    L = tokens.process.at(t, t)
    x = torch.where(MASKS, 3, x0)
    total = 0.0
    for row, mask in zip(x, MASKS):
        said = tokens(row[None].expand(len(t), 3), t)
        each = loss.per_sample(said, x0.expand(len(t), 3), torch.zeros(len(t), 3))
        total += (each * L.s ** int(mask.sum()) * L.a ** int((~mask).sum())).mean().item()
    assert total == pytest.approx(-tokens.log_density(x0[None]).item() / 3, rel=3e-3)


def test_without_weight_it_is_the_cross_entropy_of_what_is_hidden():
    tokens, x0 = bed("cosine"), DATA
    x = torch.where(torch.tensor([True, False, True]), 3, x0)
    said = tokens(x, torch.full((4,), 0.3))
    true = -said.logits.gather(-1, x0[..., None])[..., 0][:, [0, 2]].sum(1) / 3
    assert torch.allclose(MaskedCrossEntropy("uniform").per_sample(said, x0, x0), true)
    rate = tokens.process.rate(tokens.process.at(0.3, true))
    assert torch.allclose(MaskedCrossEntropy().per_sample(said, x0, x0), true * rate)
    assert (MaskedCrossEntropy().per_sample(tokens(x0, 0.3), x0, x0) == 0).all()


def test_it_says_what_its_parts_say():
    tokens, asked = bed("linear"), []

    def ask(x, t, cond):
        asked.append((x, t, cond))
        return tokens(x, t).logits.float()

    denoiser = Denoiser(ask, tokens.process, "logits", null=lambda c, b: {"label": torch.full((b,), 9)})
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    batch = {"x0": DATA, "cond": {"label": torch.arange(4)}, "u": torch.tensor([0.1, 0.4, 0.6, 0.9]), "noise": noise,
             "drop": torch.tensor([0.1, 0.6, 0.2, 0.9])}  # fmt: skip
    loss = MaskedCrossEntropy(drop_condition=0.5)
    found = loss(denoiser, batch)
    x, t, cond = asked[0]
    assert cond["label"].tolist() == [9, 1, 9, 3] and torch.allclose(t, loss.times(batch["u"], tokens.process))
    assert torch.equal(x, tokens.process.corrupt(DATA, batch["noise"], t))
    times = loss.times(torch.tensor([0.0, 1.0]), tokens.process)
    assert times[0] == pytest.approx(tokens.process.t_min) and times[1] == 1
    assert found["loss"].item() == pytest.approx(loss.per_sample(tokens(x, t), DATA, batch["noise"]).mean().item(), rel=1e-5)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(OrnsteinError, match="Did you mean 'nelbo'"):
        catalog.build("losses", "masked:weight=elbo")
    with pytest.raises(OrnsteinError, match="no share"):
        MaskedCrossEntropy(drop_condition=2)

"""The exact law of a few token sequences, by enumeration."""

from itertools import product

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.testbeds import Tokens

PROCESS = catalog.build("processes", "masked:tokens=3")
DATA = torch.tensor([[0, 1, 2], [0, 2, 2], [1, 1, 0]])
ALL = torch.tensor(list(product(range(3), repeat=3)))


def bed(flip=0.2, **settings) -> Tokens:
    return Tokens(DATA, PROCESS, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1]), flip, **settings)


def law(flip: float) -> torch.Tensor:
    """p over all 27 sequences, from the definition."""
    each = (1 - flip) * (ALL[:, None] == DATA).double() + flip / 3
    return (each.prod(2) * torch.tensor([1.0, 2.0, 3.0]).double() / 6).sum(1)


@pytest.mark.parametrize("flip", [0.0, 0.2])
def test_density_and_conditionals_by_enumeration(flip):
    tokens, p = bed(flip), law(flip)
    assert torch.allclose(tokens.log_density(ALL).exp(), p, atol=1e-12) and p.sum() == pytest.approx(1)
    for seen in ([3, 3, 3], [0, 3, 3], [3, 1, 3], [3, 3, 2], [0, 3, 2]):
        x = torch.tensor([seen])
        fits = ((x == ALL) | (x == 3)).all(1)
        said = tokens(x, 0.5).logits.exp()[0]
        assert tokens.log_density(x).exp().item() == pytest.approx(p[fits].sum().item())
        for j in (j for j in range(3) if seen[j] == 3):
            true = torch.stack([p[fits & (ALL[:, j] == k)].sum() for k in range(3)]) / p[fits].sum()
            assert torch.allclose(said[j], true, atol=1e-12)
        assert torch.equal(tokens(x, 0.1).logits, tokens(x, 0.9).logits)


def test_what_fits_nothing_goes_by_most_tokens():
    x = torch.tensor([[1, 1, 2], [1, 2, 3]])
    assert torch.allclose(bed(0.0).posterior(x), torch.tensor([[1 / 4, 0, 3 / 4], [0, 2 / 5, 3 / 5]]).double())
    assert torch.allclose(bed(1e-9).posterior(x), bed(0.0).posterior(x), atol=1e-6)


def test_labels():
    tokens, hidden = bed(0.0), torch.full((3, 3), 3)
    share = tokens.posterior(hidden, {"label": torch.tensor([0, 1, tokens.null])})
    assert torch.allclose(share, torch.tensor([[1, 0, 0], [0, 0.4, 0.6], [1 / 6, 2 / 6, 3 / 6]]).double())
    assert torch.allclose(tokens.log_density(DATA, {"label": torch.tensor([0, 1, 1])}).exp(), torch.tensor([1, 0.4, 0.6]).double())
    assert torch.equal(tokens.posterior(hidden, tokens.unconditional(None, 3)), tokens.posterior(hidden))


def test_fresh_samples_have_the_law():
    x = bed().sample(20000, seed=1)
    found = torch.bincount((x * torch.tensor([9, 3, 1])).sum(1), minlength=27) / 20000
    assert (found - law(0.2)).abs().max() < 0.012
    exact = bed(0.0)
    assert exact.distance(exact.sample(20000)) < 0.02 and exact.distance(torch.full((9, 3), 2)) == pytest.approx(1)
    assert exact.which(torch.tensor([[0, 2, 2], [2, 2, 2]])).tolist() == [1, 3]
    assert exact.distance(DATA[2:]) == pytest.approx(0.5)


def test_what_cannot_be_is_refused():
    for given, words in (((DATA.float(), PROCESS), "no tokens"), ((DATA + 1, PROCESS), "outside 0..2"),
                         ((DATA, PROCESS, torch.ones(2)), "2 weights for 3 data")):  # fmt: skip
        with pytest.raises(OrnsteinError, match=words):
            Tokens(*given)
    with pytest.raises(OrnsteinError, match="shape"):
        bed()(torch.zeros(1, 4, dtype=torch.long), 0.5)
    with pytest.raises(OrnsteinError, match="no data"):
        bed()(DATA, 0.5, {"label": torch.tensor([0, 1, 7])})

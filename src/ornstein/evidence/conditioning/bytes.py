"""Evidence: a trained byte embedding tells words of the same letters apart, in phrases that it has not seen."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.conditioning.bytes import ByteEmbedding
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._adam import Adam

METRIC = "accuracy of the noun in unseen colour-noun phrases (higher)"
NOUNS = "bat tab god dog tea eat rat tar lion loin pan nap loop pool star rats".split()
COLOURS = "red green blue pink white black orange yellow golden brown".split()
WIDTH, LENGTH = 32, 16


def run(quick: bool = True) -> Evidence:
    """A linear head on the pooled state; a third of the phrases held out. Three seeds of 150 steps (five of 400)."""
    results: dict[str, list[float]] = {"trained": [], "frozen": [], "bag": []}
    for seed in range(3 if quick else 5):
        pairs = list(itertools.product(COLOURS, range(len(NOUNS))))
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
        texts = [f"{pairs[i][0]} {NOUNS[pairs[i][1]]}" for i in order]
        labels = torch.tensor([pairs[i][1] for i in order])
        for name in results:
            results[name].append(_accuracy(name, texts, labels, seed, 150 if quick else 400))
    rows = [
        Row("ByteEmbedding, trained", "method", METRIC, results["trained"], "14 k weights"),
        Row("histogram of bytes", "natural", METRIC, results["bag"], "257-d"),
        Row("ByteEmbedding, frozen as initialised", "equal-cost", METRIC, results["frozen"], "14 k weights"),
    ]
    mine = min(results["trained"])
    best = max(results["bag"] + results["frozen"])
    return Evidence(
        "A trained byte embedding names over 90 % of the nouns of unseen phrases among anagrams, more than a histogram "
        "of the bytes and than its own random initialisation.", rows, verdict(mine > 0.9 and mine > best, mine > best),
    )  # fmt: skip


def _accuracy(kind: str, texts: list[str], labels: Tensor, seed: int, steps: int) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ByteEmbedding(WIDTH, LENGTH)
        head = nn.Linear(257 if kind == "bag" else WIDTH, len(NOUNS))
    encoder.requires_grad_(kind == "trained")
    fixed = _bag(texts) if kind == "bag" else encoder(texts)["pooled"].detach()
    weights = [p for p in (*encoder.parameters(), *head.parameters()) if p.requires_grad]
    optimiser = Adam(weights, 1e-2)
    cut = len(texts) * 2 // 3
    for _ in range(steps):
        states = encoder(texts[:cut])["pooled"] if kind == "trained" else fixed[:cut]
        optimiser.zero_grad()
        F.cross_entropy(head(states), labels[:cut]).backward()
        optimiser.step()
    with torch.no_grad():
        states = encoder(texts[cut:])["pooled"] if kind == "trained" else fixed[cut:]
        return (head(states).argmax(1) == labels[cut:]).float().mean().item()


def _bag(texts: list[str]) -> Tensor:
    """[N, 257] counts of the bytes, over the length."""
    return torch.stack([torch.bincount(torch.tensor([*t.encode()]), minlength=257) / len(t) for t in texts])

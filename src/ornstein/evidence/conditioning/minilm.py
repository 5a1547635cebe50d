"""Evidence: MiniLM puts a word beside its meaning, not its spelling."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.conditioning.minilm import MiniLM
from ornstein.evidence import Evidence, Row, verdict

METRIC = "pairs whose partner is the nearest of all partners, cosine (higher)"
PAIRS = """car:automobile doctor:physician ocean:sea stone:rock kid:child angry:furious happy:joyful big:large
snake:serpent home:house shop:store rabbit:bunny taxi:cab movie:film plane:aircraft street:road gift:present
smart:clever quick:fast ill:sick infant:baby woods:forest cash:money garbage:trash sofa:couch lawyer:attorney
autumn:fall hog:pig scared:afraid start:begin kitten:cat puppy:dog lion:tiger violin:guitar apple:fruit rose:flower
king:queen sun:moon hammer:tool rain:umbrella"""


def run(quick: bool = True) -> Evidence:
    """Forty pairs; each of five seeds draws thirty of them. Needs the weights of MiniLM."""
    left, right = zip(*(pair.split(":") for pair in PAIRS.split()))
    model = MiniLM()
    trained = model([*left, *right])["pooled"]
    hashed = torch.stack([_hashed(word, model.dim) for word in (*left, *right)])
    order = torch.randperm(30522, generator=torch.Generator().manual_seed(0))
    static = torch.stack([model._weights["embeddings.word_embeddings.weight"][model.tokenizer(w, 16)[1:-1]].mean(0)
                          for w in (*left, *right)])  # fmt: skip
    shuffled = torch.stack([model._weights["embeddings.word_embeddings.weight"][order[model.tokenizer(w, 16)[1:-1]]]
                            .mean(0) for w in (*left, *right)])  # fmt: skip
    draws = [torch.randperm(len(left), generator=torch.Generator().manual_seed(s))[:30] for s in range(5)]
    rows = [
        Row("MiniLM, pooled", "method", METRIC, _scores(trained, draws), "6 blocks"),
        Row("its word embeddings alone", "natural", METRIC, _scores(static, draws), "no block"),
        Row("bag of hashed byte trigrams, 384-d", "equal-cost", METRIC, _scores(hashed, draws), "no weights"),
        Row("word embeddings of other words", "floor", METRIC, _scores(shuffled, draws), "no block"),
    ]
    best = max(max(r.values) for r in rows if r.kind != "method" and r.kind != "natural")
    mine, plain = min(rows[0].values), max(rows[1].values)
    return Evidence(
        "Among thirty candidates the state of MiniLM finds a word's synonym or kin for more than half of the words, at "
        "least twice as often as byte trigrams of the same width, and more often than its own word embeddings.",
        rows, verdict(mine > 0.5 and mine > 2 * best and rows[0].mean > rows[1].mean, mine > best or mine > plain),
    )  # fmt: skip


def _hashed(word: str, dim: int) -> Tensor:
    """Signed counts of the byte trigrams of ^word$ in `dim` buckets."""
    out, text = torch.zeros(dim), f"^{word}$".encode()
    for i in range(len(text) - 2):
        n = int.from_bytes(hashlib.sha256(text[i : i + 3]).digest()[:8], "big")
        out[n % dim] += 1 if n >> 63 else -1
    return out


def _scores(states: Tensor, draws: list[Tensor]) -> list[float]:
    """For each draw of pairs: the share whose nearest right partner is the true one."""
    states = F.normalize(states, dim=-1)
    half = len(states) // 2
    found = []
    for draw in draws:
        cosine = states[draw] @ states[half + draw].T
        found.append((cosine.argmax(1) == torch.arange(len(draw))).float().mean().item())
    return found

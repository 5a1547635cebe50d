"""Weighted prompts: what the syntax means, which tokens it weighs, and the formula."""

from dataclasses import replace

import pytest
import torch

from ornstein.conditioning.bytes import ByteEmbedding
from ornstein.conditioning.layers.weights import marked, pieces
from ornstein.conditioning.weighted import Weighted
from ornstein.core.errors import OrnsteinError
from ornstein.data.emoji import Emoji
from ornstein.model import load


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    part = ByteEmbedding(8, 24)
    torch.nn.init.normal_(part.embedding.weight)
    return part.requires_grad_(False)


@pytest.mark.parametrize(
    "text, found",
    [
        ("(red apple:1.3) on snow", [("red apple", 1.3), (" on snow", 1.0)]),
        ("((a:2) b:1.5) (c) d", [("a", 3.0), (" b", 1.5), (" (c) d", 1.0)]),
        (r"\(x:1.2\) (y: 2 )", [("(x:1.2) ", 1.0), ("y", 2.0)]),
        ("(a (b) c:0.5)", [("a (b) c", 0.5)]),
        ("(12:30 noon:2)", [("12:30 noon", 2.0)]),
        (r"(a\:1:2)\\", [("a:1", 2.0), ("\\", 1.0)]),
        ("(:2)", [("", 1.0)]),
    ],
)
def test_what_is_written(text, found):
    assert marked(text) and pieces(text) == found


@pytest.mark.parametrize(
    "text, words",
    [("(a:2", "is never closed"), ("a:2) b", "closes what none"), ("(a:2))", "closes what none"), ("((a:2)", "is never closed"),
     ("(a:1.2.3)", "cannot read the weight '1.2.3'"), ("(at 12:30)", r"the weight 30 .*\\\("), ("(a:-1)", "not within 0 and 10")],
)  # fmt: skip
def test_mistakes_are_told(text, words):
    assert marked(text)
    with pytest.raises(OrnsteinError, match=words):
        pieces(text)


@pytest.mark.parametrize("text", ["a face :)", "(red) apple", "plain", "[x]", "a:1", 3, "ratio 4:3 (wide)"])
def test_plain_prompts_stay_plain(text):
    assert not marked(text)


def test_no_caption_of_the_house_has_the_syntax():
    assert not [c for c in Emoji.subset("all").captions if marked(c)]


def test_weights_of_1_are_bit_exact_beside_others(encoder):
    plain = encoder(["red apple on snow", "fox"])
    for about in ("mean", "null"):
        got = Weighted(encoder, about)([r"(red apple:1.0) on snow", "fox", "(fox:2)"])
        assert all(torch.equal(got[k][:2], plain[k]) for k in plain)
        assert not torch.equal(got["tokens"][2], plain["tokens"][1])


def test_the_formula_and_the_tokens_it_is_for(encoder):
    h, got = encoder(["ab éd"]), Weighted(encoder)(["ab (éd:1.5)"])
    n = 7  # six bytes and the end
    centre = h["tokens"][0, :n].mean(0)
    want = h["tokens"][0].clone()
    want[3:6] = centre + 1.5 * (want[3:6] - centre)
    torch.testing.assert_close(got["tokens"][0], want)
    mean = want[:n].mean(0)
    torch.testing.assert_close(got["pooled"][0], mean / mean.norm() * h["pooled"][0].norm())
    null = Weighted(encoder, "null")(["ab (éd:1.5)"])["tokens"][0]
    torch.testing.assert_close(null[3:6], 1.5 * h["tokens"][0, 3:6])
    assert torch.equal(null[:3], h["tokens"][0, :3]) and torch.equal(got["mask"], h["mask"])


def test_what_is_cut_and_what_is_padded_has_no_weight(encoder):
    got = Weighted(encoder)(["(a:3)" + "b" * 0 + " " + "c" * 40, "(x:3)"])
    plain = encoder(["a " + "c" * 40, "x"])
    assert torch.equal(got["tokens"][0, 1:], plain["tokens"][0, 1:]) and torch.equal(got["tokens"][1, 1:], plain["tokens"][1, 1:])
    assert not torch.equal(got["tokens"][0, 0], plain["tokens"][0, 0])


def test_pieces_of_words_with_marks_at_both_ends():
    part = Weighted("minilm")
    try:
        plain, got = part(["snowflakes apple pie"]), part(["snowflakes (apple:2) pie"])
    except OrnsteinError as error:
        pytest.skip(str(error))
    ids = part.inner.tokenizer("snowflakes apple pie", 16)
    changed = (plain["tokens"] != got["tokens"])[0].any(1).nonzero()[:, 0].tolist()
    assert changed == [ids.index(part.inner.tokenizer.vocab["apple"])]
    torch.testing.assert_close(got["pooled"].norm(dim=1), torch.ones(1))


def test_refusals(encoder):
    with pytest.raises(OrnsteinError, match="cuts the word 'apple' after 'app'"):
        Weighted(encoder)(["(app:2)le"])
    with pytest.raises(OrnsteinError, match="Did you mean 'mean'"):
        Weighted(encoder, "meen")
    with pytest.raises(OrnsteinError, match="no states of tokens"):
        load("digits").encode(["(3:1.2)"])


def test_a_model_encodes_weights():
    model = load("emoji")
    try:
        plain = model.encode(["red apple", "fox"])
    except OrnsteinError as error:
        pytest.skip(str(error))
    got = model.encode(["(red:2) apple", "fox"])
    itself = replace(model, encoder=Weighted(model.encoder)).encode(["(red:2) apple", r"\(fox:2\)"])
    assert torch.equal(itself["tokens"][0], got["tokens"][0])
    assert torch.equal(itself["tokens"][1], model.encoder(["(fox:2)"])["tokens"][0])
    assert torch.equal(got["tokens"][1], plain["tokens"][1]) and not torch.equal(got["pooled"][0], plain["pooled"][0])

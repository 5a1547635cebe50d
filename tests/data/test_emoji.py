"""Emoji: captions, bases, premultiplied pixels, packs that are refused, an archive that cannot reach the disk."""

import io
import subprocess
import tarfile

import numpy as np
import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.data.emoji import Emoji, fetch, over
from ornstein.data.layers import emoji_archive, emoji_art, pack


def entry(name, code="1F34E", short=("apple",)):
    return {"name": name, "unified": code, "short_names": list(short)}


@pytest.mark.parametrize(
    "given, name",
    [("RED APPLE", "red apple"), ("MANS SHOE", "man's shoe"), ("WOMANS HAT", "woman's hat"),
     ("HEAVY BLACK HEART", "red heart"), ("WOMAN: RED HAIR", "woman with red hair"), ("MAN: BALD", "bald man"),
     ("KISS: WOMAN, MAN", "kiss of woman, man"), ("ANGER SYMBOL", "anger"),
     ("CLOCK FACE ONE OCLOCK", "clock face one o'clock"),
     ("BLACK CAT", "black cat")],
)  # fmt: skip
def test_names_are_readable(given, name):
    assert emoji_art.name(entry(given)) == name


@pytest.mark.parametrize(
    "given, short, caption",
    [("COLLISION SYMBOL", ["boom", "collision"], "collision, boom"), ("RED APPLE", ["apple"], "red apple"),
     ("WOMAN ELF", ["female_elf"], "woman elf"), ("THUMBS UP SIGN", ["+1", "thumbsup"], "thumbs up"),
     ("CLOCK FACE ONE OCLOCK", ["clock1"], "clock face one o'clock")],
)  # fmt: skip
def test_captions_add_only_new_words(given, short, caption):
    assert emoji_art.caption(entry(given, short=short)) == caption


@pytest.mark.parametrize(
    "family",
    [("1F44B", "1F44B-1F3FF"), ("1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-1F3FB-200D-2642-FE0F-200D-27A1-FE0F"),
     ("1F468-200D-1F373", "1F469-1F3FD-200D-1F373", "1F9D1-200D-1F373"), ("1F46B", "1F9D1-200D-1F91D-200D-1F9D1"),
     ("1F48F", "1F469-200D-2764-FE0F-200D-1F48B-200D-1F468"), ("1F491", "1F469-200D-2764-FE0F-200D-1F468"),
     ("1F550", "1F567"), ("1F46A", "1F468-200D-1F469-200D-1F466"), ("1F468", "1F469-1F3FB", "1F9D1"),
     ("1F934", "1F478")],
)  # fmt: skip
def test_forms_of_one_base_stay_together(family):
    assert len({emoji_art.base(code) for code in family}) == 1


def test_different_bases_stay_apart():
    codes = ("1F468-200D-1F373", "1F373", "1F468-200D-1F33E", "1F34E", "1F34F", "1F468", "1F466", "2764-FE0F")
    assert len({emoji_art.base(c) for c in codes}) == len(codes)


def test_the_held_out_share_is_six_per_cent_and_frozen():
    held = [n for n in range(0x1F300, 0x1F700) if emoji_art.held_out(f"{n:X}")]
    assert 0.04 < len(held) / 0x400 < 0.08
    assert [f"{n:X}" for n in held][:3] == ["1F339", "1F33E", "1F33F"]


def test_the_shipped_pictures_are_premultiplied_and_captioned():
    data = Emoji.subset()
    x = (data.images() + 1) / 2
    assert len(data) == 204 and (x[:, :3] <= x[:, 3:] + 1e-6).all()
    assert len(set(data.codes)) == 204 and len(set(data.captions)) == 204
    assert all(c == c.lower() and c.isascii() for c in data.captions)
    assert data.labels.max() < 8 and data.captions[0].startswith(data.prompt(0))
    assert set(Emoji.subset("train", True).bases).isdisjoint(Emoji.subset("test", True).bases)
    toned = Emoji.subset(variants=True)
    assert len(toned) == 244 and sum("skin tone" in c for c in toned.captions) == 40


def test_over_white_and_black():
    clear, red = torch.tensor([-1.0, -1, -1, -1]), torch.tensor([1.0, -1, -1, 1])
    x = torch.stack([clear, red])[:, :, None, None]
    assert over(x, 1.0)[:, :, 0, 0].tolist() == [[1, 1, 1], [1, -1, -1]]
    assert over(x, -1.0)[0].max() == -1


def test_halving_does_not_bleed_the_colour_of_clear_pixels():
    rgba = np.zeros((4, 16, 16), np.int64)
    rgba[1, :, :8] = 0  # opaque black on the left; on the right green with alpha 0, already multiplied away
    rgba[3, :, :8] = 255 * 255
    out = emoji_art.quantise(emoji_art.halve(rgba)[None])[0]
    assert out.shape == (4, 8, 8) and out[1].max() == 0 and (out[:3] <= out[3]).all()
    flat = emoji_art.quantise(emoji_art.halve(np.full((4, 16, 16), 200 * 255))[None])
    assert (flat == 200).all()
    edge = np.zeros((4, 16, 16))
    edge[:, 4:12, 4:12] = 255 * 255
    edge[3, 4:12, 4:12] = 255 * 128  # too bright a colour is cut to its alpha
    out = emoji_art.quantise(emoji_art.halve(edge)[None])[0]
    assert (out[:3] <= out[3]).all()


def test_halving_is_catmull_rom():
    """Equal to the antialiased bicubic of Pillow (a = -0.5) inside the picture."""
    from PIL import Image

    picture = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    expected = np.asarray(Image.fromarray(picture).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(emoji_art.halve(picture)[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-5)


def test_a_missing_pack_names_the_remedy(tmp_path):
    with pytest.raises(OrnsteinError, match="Run `ornstein fetch emoji`"):
        len(Emoji(root=tmp_path))
    with pytest.raises(OrnsteinError, match="Choose 32, or 64 after `ornstein fetch emoji`"):
        Emoji(64, root=None)


@pytest.mark.parametrize("kind", ["cut", "changed", "text"])
def test_a_corrupt_pack_is_refused(tmp_path, kind):
    path = tmp_path / "emoji-32.npz"
    pixels, table = np.zeros((2, 4, 32, 32), np.uint8), {"code": ["a", "b"]}
    right = pack.write(path, pixels, table)
    assert pack.read(path, right, "")[1] == table and [p.name for p in tmp_path.iterdir()] == ["emoji-32.npz"]
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "text":
        path.write_text("nothing")
    else:
        pack.write(path, pixels + 1, table)
    with pytest.raises(OrnsteinError, match="corrupt.*Run `ornstein fetch emoji`"):
        Emoji(root=tmp_path).captions if kind != "changed" else pack.read(path, right, "Run `ornstein fetch emoji`")


class Broken:
    """Fails while it is being written."""

    def __array__(self, *args, **kwargs):
        raise ValueError("no array")


def test_a_failed_write_leaves_the_old_pack(tmp_path):
    path = tmp_path / "a.npz"
    right = pack.write(path, np.ones(3, np.uint8), {})
    with pytest.raises(ValueError):
        pack.write(path, Broken(), {})
    assert pack.read(path, right, "")[0].sum() == 3 and len(list(tmp_path.iterdir())) == 1


def test_a_foreign_archive_is_refused(tmp_path):
    (tmp_path / "a.tgz").write_bytes(b"no")
    with pytest.raises(OrnsteinError, match="SHA-256 differs"):
        fetch(tmp_path, tmp_path / "a.tgz")
    with pytest.raises(OrnsteinError, match="no archive"):
        fetch(tmp_path, tmp_path / "b.tgz")
    with pytest.raises(OrnsteinError, match="Choose 32, 64 or both"):
        fetch(tmp_path, tmp_path / "a.tgz", sizes=(48,))


def test_without_npm_the_error_names_the_way_out(tmp_path, monkeypatch):
    def absent(*args, **kwargs):
        raise FileNotFoundError("npm")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(OrnsteinError, match="Install npm"):
        fetch(tmp_path)


def test_the_archive_is_read_in_memory(tmp_path, monkeypatch):
    """Members with climbing names, links and oversized members are not read, and nothing is written."""
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGBA", (64, 64), (200, 0, 0, 128)).save(picture, "PNG")
    index = b"""[{"name": "RED APPLE", "unified": "1F34E", "image": "a.png", "short_names": ["apple"],
                  "category": "Food", "subcategory": "fruit", "has_img_google": true, "sort_order": 1},
                 {"name": "FLAG", "unified": "1F3F4", "image": "../../evil.png", "short_names": [],
                  "category": "Flags", "subcategory": "flag", "has_img_google": true, "sort_order": 0}]"""
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in (("package/emoji.json", index), ("package/img/google/64/a.png", picture.getvalue()),
                           ("package/img/google/64/../../../../evil", b"x"), ("/evil", b"x")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    table, exact = emoji_archive.read(path)
    assert table["caption"] == ["red apple"] and list(tmp_path.iterdir()) == [path]
    assert emoji_art.quantise(exact)[0, :, 0, 0].tolist() == [100, 0, 0, 128]
    monkeypatch.setattr(emoji_archive, "LIMIT", 100)
    with pytest.raises(OrnsteinError, match="lacks package/emoji.json"):
        emoji_archive.read(path)

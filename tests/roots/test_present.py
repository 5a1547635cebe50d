"""Contact sheets and the folders that pictures come in."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ornstein import present
from ornstein.core.errors import OrnsteinError


def half_transparent(size: int = 8) -> np.ndarray:
    image = np.zeros((size, size, 4), np.uint8)
    image[..., 0] = 200
    image[: size // 2, :, 3] = 255
    return image


def test_a_png_keeps_every_value(tmp_path):
    for channels in (1, 3, 4):
        image = np.random.default_rng(0).integers(0, 256, (8, 6, channels), dtype=np.uint8)
        (tmp_path / "p.png").write_bytes(present.png(image))
        back = np.asarray(Image.open(tmp_path / "p.png"))
        assert (back == (image[..., 0] if channels == 1 else image)).all()


def test_transparent_is_paper_or_a_checkerboard():
    image = present.picture(half_transparent(16))
    plain, board = np.asarray(present.over(image)), np.asarray(present.over(image, checker=True))
    assert (plain[:8] == (200, 0, 0)).all() and (plain[8:] == 255).all()
    assert (board[:8] == (200, 0, 0)).all() and set(np.unique(board[8:])) == {236, 240, 255}


def test_a_sheet_has_every_picture_once_and_a_word_under_it():
    images = [np.full((8, 8, 1), v, np.uint8) for v in (10, 80, 150)]
    sheet = present.contact_sheet(images, columns=2, side=16)
    assert sheet.size == (10 + 2 * 26, 10 + 2 * 26)
    values = np.asarray(sheet)[..., 0]
    assert [(values == v).sum() for v in (10, 80, 150)] == [256] * 3
    taller = present.contact_sheet(
        images, ["one", "two", "three words that are far too many for so small a picture"], columns=2
    )
    assert taller.height > present.contact_sheet(images, columns=2).height


def test_small_pictures_keep_sharp_pixels():
    image = np.array([[0, 255], [255, 0]], np.uint8)[..., None]
    assert set(np.unique(np.asarray(present.contact_sheet([image], side=64)))) == {0, 255}


def test_a_sheet_can_be_written_at_once(tmp_path):
    present.contact_sheet([half_transparent()], ["x"], tmp_path / "s.png")
    assert Image.open(tmp_path / "s.png").mode == "RGB" and [p.name for p in tmp_path.iterdir()] == ["s.png"]


@pytest.mark.parametrize("bad", [np.zeros((8, 8, 4), np.float32), np.zeros((8, 8, 2), np.uint8), np.zeros(8, np.uint8)])
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(OrnsteinError, match="is not a picture"):
        present.png(bad)


def test_labels_and_pictures_go_together():
    with pytest.raises(OrnsteinError, match="2 labels for 1 pictures"):
        present.contact_sheet([half_transparent()], ["a", "b"])
    with pytest.raises(OrnsteinError, match="no pictures"):
        present.contact_sheet([])


def test_names_sort_and_never_leave_the_folder():
    names = present.names(["A Red Apple!", "../../etc/passwd", "", "é" * 80, *["x"] * 97])
    assert names[:3] == ["000-a-red-apple.png", "001-etc-passwd.png", "002-picture.png"]
    assert sorted(names) == names and len(set(names)) == 101 and all("/" not in n and len(n) < 60 for n in names)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), present.folder(tmp_path / "new/a") as part:
        (part / "x").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with present.folder(tmp_path / "new/a") as part:
        (part / "x").write_text("whole")
        assert not (tmp_path / "new/a").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a"] and (tmp_path / "new/a/x").read_text() == "whole"


def test_a_failed_overwrite_leaves_the_old_as_it_was(tmp_path):
    with present.folder(tmp_path / "a") as part:
        (part / "x").write_text("old")
    with pytest.raises(RuntimeError), present.folder(tmp_path / "a", overwrite=True) as part:
        (part / "x").write_text("new")
        raise RuntimeError
    assert (tmp_path / "a/x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1

"""The words and the pixels of an emoji: readable names, the group that a split keeps together, premultiplied alpha."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

import numpy as np

__all__ = ["CATEGORIES", "TONES", "base", "caption", "decode", "halve", "held_out", "keep", "name", "quantise"]

TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
# Unicode says "black" for filled and "white" for outlined; these names would teach a wrong colour.
RENAMED = {
    "heavy black heart": "red heart", "black sun with rays": "sun with rays", "black telephone": "red telephone",
    "white smiling face": "smiling face", "black scissors": "scissors", "white medium star": "yellow star",
    "black spade suit": "spade suit", "black club suit": "club suit", "black heart suit": "heart suit",
    "black diamond suit": "diamond suit", "playing card black joker": "joker playing card",
    "white up pointing index": "index pointing up", "white up pointing backhand index": "backhand index pointing up",
    "white down pointing backhand index": "backhand index pointing down", "octagonal sign": "stop sign",
    "white left pointing backhand index": "backhand index pointing left", "father christmas": "santa claus",
    "white right pointing backhand index": "backhand index pointing right",
}  # fmt: skip
# Whole categories without pictures, and the subcategories that are letters, arrows or signs on a coloured square.
DROPPED = {"Flags", "Component", "keycap", "other-symbol", "alphanum", "av-symbol", "transport-sign", "arrow",
           "religion", "math", "punctuation", "gender", "zodiac", "currency"}  # fmt: skip
CATEGORIES = ("Activities", "Animals & Nature", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion",
              "Symbols", "Travel & Places")  # fmt: skip
ADULTS, SIGNS = {"1F468", "1F469", "1F9D1"}, {"200D", "FE0F", "2640", "2642", "27A1", *TONES}
# Short-name words that say nothing that the name does not.
EMPTY = {"male", "female", "haired", "probing", "partying", "hole", "sign", "with", "of", "in", "pad", "dark",
         "derelict", "lower", "left", "black", "hankey", "shit", "small", "building"}  # fmt: skip
PEOPLE = {*ADULTS, "1F466", "1F467", "1F9D2"}
# Drawn alike under several code points: they go to one side of the split together.
SAME = {"1F46B": "1F91D", "1F46C": "1F91D", "1F46D": "1F91D", "2764-1F48B": "1F48F", "person-2764": "1F491",
        "person-2764-1F48B": "1F48F", "person-1F91D": "1F91D", "1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2",
        "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3", "1F934": "1FAC5", "1F478": "1FAC5", "1F936": "1F385",
        "person-1F384": "1F385"}  # fmt: skip


def keep(entry: dict[str, Any]) -> bool:
    """Whether an entry of emoji.json is a picture: no flag, keycap, letter, arrow, sign or grey family icon."""
    dropped = {entry["category"], entry["subcategory"]} & DROPPED or base(entry["unified"]) == "1F46A"
    return entry["has_img_google"] and not dropped


def base(code: str) -> str:
    """The group of a code point sequence: no skin tone, gender or direction; families, couples, clocks joined."""
    parts = [p for p in code.upper().split("-") if p not in SIGNS]
    if len(parts) > 1 and set(parts) <= PEOPLE:
        return "1F46A"  # every family
    if len(parts) > 1 and parts[0] in ADULTS:
        rest = "-".join(p for p in parts if p not in ADULTS)
        return SAME.get(f"person-{rest}", f"person-{rest}")
    if len(parts) == 1 and 0x1F550 <= int(parts[0], 16) <= 0x1F567:
        return "1F550"  # every clock face
    return SAME.get("-".join(parts), "-".join(parts))


def held_out(group: str, share: float = 0.06) -> bool:
    """Whether the group belongs to the test split: a stable hash, the same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") < share * 2**64


def name(entry: dict[str, Any]) -> str:
    """'RED APPLE' -> 'red apple', 'MANS SHOE' -> "man's shoe", 'WOMAN: RED HAIR' -> 'woman with red hair'."""
    text = entry["name"].lower().replace("’", "'")
    if entry["unified"] == "1F935":
        return "person in tuxedo"
    text = RENAMED.get(text, text)
    text = re.sub(r"\b(wo)?mans\b", lambda m: m[0][:-1] + "'s", text).replace("oclock", "o'clock")
    text = re.sub(r"^(man|woman|person): bald$", r"bald \1", text)
    text = re.sub(r"^(family|kiss|couple with heart): ", r"\1 of ", text).replace(": ", " with ")
    return re.sub(r" (symbol|sign)$", "", text) if text != "stop sign" else text


def caption(entry: dict[str, Any]) -> str:
    """The name, then the short names that add a word of their own: 'santa claus', 'collision, boom'."""
    text = name(entry)
    seen, extra = re.findall(r"[a-z]+", text), []
    for short in entry["short_names"]:
        words = re.split(r"[_-]", short.lower())
        new = [w for w in words if not any(w.startswith(s) or s.startswith(w) for s in seen)]
        if all(w.isalpha() for w in words) and set(new) - EMPTY:
            extra.append(" ".join(words))
            seen += words
    return ", ".join([text, *extra])


def decode(data: bytes) -> np.ndarray:
    """PNG bytes -> [4, H, W] int64 RGBA, colour times alpha (0..65025), alpha times 255 (0..65025): no rounding yet."""
    from PIL import Image

    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), np.int64).transpose(2, 0, 1)
    return np.concatenate([rgba[:3] * rgba[3:], rgba[3:] * 255])


def quantise(exact: np.ndarray) -> np.ndarray:
    """[N, 4, H, W] in 0..65025 -> uint8; a filter's overshoot is cut so that no colour exceeds its alpha."""
    rounded = np.rint(exact / 255)
    alpha = np.clip(rounded[:, 3:], 0, 255)
    return np.concatenate([np.clip(rounded[:, :3], 0, alpha), alpha], 1).astype(np.uint8)


def halve(image: np.ndarray) -> np.ndarray:
    """[..., H, W] -> [..., H/2, W/2], Catmull-Rom filter of width 2 (8 dyadic taps, so that every machine agrees)."""
    taps = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256.0
    out = np.asarray(image, np.float64)
    for _ in range(2):
        wide = np.pad(out, [(0, 0)] * (out.ndim - 1) + [(3, 3)], mode="edge")
        n = out.shape[-1] // 2
        out = sum(w * wide[..., k : k + 2 * n : 2] for k, w in enumerate(taps)).swapaxes(-1, -2)
    return out

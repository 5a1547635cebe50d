"""Evidence for the UNet."""

from __future__ import annotations

from ornstein.evidence import Evidence
from ornstein.evidence.backbones._ground import trial


def run(quick: bool = True) -> Evidence:
    return trial("UNet", "unet:channels=1,width=16,multipliers=(1,2),classes=10", 40 if quick else 400, 3 if quick else 5,
                 16 if quick else 32)  # fmt: skip

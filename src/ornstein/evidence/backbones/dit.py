"""Evidence for the DiT."""

from __future__ import annotations

from ornstein.evidence import Evidence
from ornstein.evidence.backbones._ground import trial


def run(quick: bool = True) -> Evidence:
    return trial("DiT", "dit:channels=1,patch=2,width=32,depth=2,heads=4,classes=10", 60 if quick else 400, 3 if quick else 5)

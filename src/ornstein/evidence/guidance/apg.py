"""Evidence for adaptive projected guidance: obedience and distance to the exact law at scale 6, on exact mixtures."""

from __future__ import annotations

from ornstein.evidence import Evidence
from ornstein.guidance.apg import APG

from ._strong import SCALE, strong

CLAIM = ("At scale 6, projected guidance with a threshold of 1 and momentum -0.5 brings the samples closer to the exact law "
         "of their label than plain guidance at scale 6, and plain guidance of no lower scale, nor within an interval, obeys "
         "as much and lies as close.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    methods = {"APG scale 6, threshold 1, momentum -0.5": (APG(SCALE, threshold=1.0, momentum=-0.5),),
               "APG scale 6, projection alone": (APG(SCALE),),
               "APG scale 6, threshold 1 alone": (APG(SCALE, eta=1.0, threshold=1.0),),
               "APG scale 6, momentum -0.5 alone": (APG(SCALE, eta=1.0, momentum=-0.5),),
               "APG scale 6, threshold 0.3": (APG(SCALE, threshold=0.3),)}  # fmt: skip
    return strong(CLAIM, methods, quick)

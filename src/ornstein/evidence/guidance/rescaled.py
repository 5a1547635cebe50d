"""Evidence for rescaled guidance: obedience and distance to the exact law at scale 6, on exact mixtures."""

from __future__ import annotations

from ornstein.evidence import Evidence
from ornstein.guidance.rescaled import Rescaled

from ._strong import SCALE, strong

CLAIM = ("At scale 6, rescaling x0 with phi 0.7 brings the samples closer to the exact law of their label than plain guidance "
         "at scale 6, and plain guidance of no lower scale, nor within an interval, obeys as much and lies as close.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    methods = {"rescaled scale 6, phi 0.7": (Rescaled(SCALE),), "rescaled scale 6, phi 1": (Rescaled(SCALE, 1.0),),
               "rescaled scale 6, phi 0.7, of the velocity": (Rescaled(SCALE, kind="velocity"),)}  # fmt: skip
    return strong(CLAIM, methods, quick)

"""Errors that name the object and the remedy. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["OrnsteinError", "unknown"]


class OrnsteinError(ValueError):
    """A mistake that the caller can mend: `what` names the object, `remedy` says what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}. {remedy}".strip() if remedy else what)
        self.what, self.remedy = what, remedy


def unknown(kind: str, name: str, known: Iterable[str]) -> OrnsteinError:
    """The error for a name that does not exist: "unknown solver 'huen'. Did you mean 'heun'?"."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listing = ", ".join(known[:24]) + (", ..." if len(known) > 24 else "")
    return OrnsteinError(f"unknown {kind} '{name}'", f"Did you mean '{close[0]}'?" if close else f"Known: {listing}.")

"""Denoisers that are exact by formula: ground truth under every solver, guidance, cache and quantiser."""

from .closed_form import ClosedForm
from .mixture import Mixture
from .molrg import MoLRG
from .network import Network
from .tokens import Tokens

__all__ = ["ClosedForm", "Mixture", "MoLRG", "Network", "Tokens"]

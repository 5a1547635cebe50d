"""Linear measurement operators."""

from .operators import AveragePool, Grey, Mask, Operator

__all__ = ["AveragePool", "Grey", "Mask", "Operator"]

"""Solvers are tried on a Gaussian mixture in 16 dimensions, whose probability-flow solutions are known to 1e-7."""

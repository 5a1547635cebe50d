"""Processes are tried on a Gaussian mixture in 16 dimensions: how far a few steps end from the exact solution."""

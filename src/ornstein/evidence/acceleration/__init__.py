"""Accelerations are tried on the digits model: distance to the full run, beside what the same compute buys otherwise."""

"""Losses beside the main one, on what the network hands out on the way.

An object has `taps` (names of the hidden states it asks the backbone for), `__call__(output, batch, step)` which gives
{name: scalar} already weighted, for the main loss to add up, and `parameters()` for the optimiser. Contract: outside of
its steps it is exactly zero and computes nothing; inside, gradients reach the tap and its own parameters, and never its
targets.
"""

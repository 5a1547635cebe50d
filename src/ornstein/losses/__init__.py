"""Losses: loss(denoiser, batch, generator, step) -> {'loss': scalar, and its named parts}.

Contract: finite in bfloat16; at the exact denoiser the gradient is near 0 where theory says so. A batch is a dict: 'x0'
[B, ...], 'cond' (dict of tensors [B, ...]) and what a particular loss asks for. What is random about a sample is in the
batch where the engine draws it ('u', 'noise', 'drop'), so that it does not depend on the number of processes. A
loss may have `parameters()`: they train with the network.
"""

"""Networks. Contract: blocks cover the network, batch independence, stable state dict, bit-exact neutral seam.

forward(x [B, C, H, W], t [B] in the terms that the denoiser tells, cond: dict or None, taps: names) -> tensor like x,
or an Output where taps are asked for. `null_condition(cond, batch)` is the model's own unconditional condition.
"""

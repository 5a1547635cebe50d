"""Losses: (denoiser, batch) -> named scalars. Contract: finite in bf16; at the exact denoiser the gradient is near 0 where theory
says so. A batch is a dict: 'x0' [B, ...], 'cond' (dict of tensors [B, ...]) and what a particular loss asks for."""

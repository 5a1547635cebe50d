"""Editing: short programs over solver and denoiser that change a given sample. Contract: a part has `edit(denoiser,
x, source, target, ids=...)`, from data x [B, ...] and two conditions of B rows to data of the same shape; with source
= target it gives x back within the error that its card states; a sample's result does not depend on its
neighbours."""

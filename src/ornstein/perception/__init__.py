"""Perception: what a generative denoiser knows about a given sample. Contract: a part is called as part(denoiser, x,
conditions) on clean data x [B, ...]; the answer for a sample does not depend on its neighbours; on a Gaussian mixture
the exact posterior is the judge."""

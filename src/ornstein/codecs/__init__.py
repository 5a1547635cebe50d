"""Media <-> latent. The sample of a diffusion model is what a codec's `encode` gives.

A part has
- `encode(x [B, C, H, W] in [-1, 1]) -> z [B, c, h, w]`, normalised by the codec's own stored statistics: each
  channel has mean 0 and standard deviation 1 over the data it was made for (Pixel: as far as it was told them);
- `decode(z) -> x`, the statistics taken off again;
- `latent_shape(shape) -> shape`, of one sample (C, H, W) or of a batch (B, C, H, W);
- `n_dim`: how many axes of a latent are places (2 for pictures);
- `error`: the stated reconstruction error, the root mean square of x - decode(encode(x)) over data like its own.
Contract: shapes go round; the error measured on held-out data stays within 1.25 of the stated one; a sample does not
depend on its neighbours; nothing is random; samples of a wrong size are refused.
"""

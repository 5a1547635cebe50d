"""Restoration: samples that agree with a measurement y = A x, wrapped by `core.denoiser.guide`. Contract: the
operator is an object with `forward`, `adjoint` and `pinv` (restoration/layers/operators.py); the measurement travels
in the condition under the name `measurement`, one row per sample, so that it follows every choice of rows; an
operator that loses nothing gives the measured sample back; on a Gaussian mixture the exact posterior is the judge."""

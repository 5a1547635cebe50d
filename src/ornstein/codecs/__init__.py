"""Media <-> latent. Contract: shape round trip and a stated error bound."""

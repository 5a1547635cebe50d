"""Tiling: a denoiser on windows of a sample larger than its model knows, wrapped by `core.denoiser.guide`. Contract:
the field `window` is the size of the last axes that the model is asked for; a sample of exactly that size gives
bit-exactly the plain sampler; each window has a clock id of its own, so that what plugins remember never mixes; a
sample's answer does not depend on its neighbours; the weights of the windows sum to 1 everywhere."""

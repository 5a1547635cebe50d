"""Guidance: Denoiser -> Denoiser, wrapped by `core.denoiser.guide`. Contract: the strength is the field `scale`, at 1
(its default) the answer is bit-exactly the unguided one and costs one call; every further call stands on the clock
under a branch name of its own; a sample's answer does not depend on its neighbours, whose times may differ; nothing
is stored on the rule."""

"""Metrics: how good generated samples are, as a figure with an interval, a floor and the name of what looked at them.

The protocol of the room. A file holds one frozen dataclass, the first name of its `__all__`, called as

    metric(generated, reference) -> Measure(value, low, high, n, name, unit, better, extractor, floor)

- `low`, `high`: bounds of a 95% interval over samples or pairs; seeded, so the same inputs give the same bounds.
- `better`: 'higher' or 'lower'. `extractor`: what turned images into features, 'none' where nothing did.
- `floor`: the value that real samples get against other real samples, where there is one.
- Paired metrics (psnr, ssim, ms_ssim, perceptual) take two tensors [N, C, H, W] of one shape with values in [-1, 1]:
  a run's, and those of the reference run with the same seeds. latent takes [N, ...] of any scale, trajectory [N, T, ...].
  All come to their Measure by `layers.measure.paired`; their third argument `again`, the reference run with other seeds,
  makes the floor: the self-noise of the reference.
- Distributional metrics (frechet, kid, mmd, prdc, wasserstein, kl) take two sets of images [N, C, H, W], or features
  [N, D] that the caller computed: these need `extractor="precomputed:NAME"`, so that the Measure tells where they came from.
- accuracy takes images and the labels [N] that were asked for, counting the numbers of things [N], agreement the sentence
  vectors [N, 384] of the captions.
- pareto takes several settings at once (`of = "settings"`); fokker_planck, conservativity, intrinsic_dimension and
  likelihood take a denoiser and data (`of = "denoiser"`).
- A sample's contribution never depends on its neighbours in a batch, and inputs are left as they were.
- Two Measures of different names or extractors do not compare: `better_than` raises.
- Shapes that differ, NaN, values far out of [-1, 1] and too few samples raise OrnsteinError with object and remedy.
"""

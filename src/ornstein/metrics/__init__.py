"""Metrics: how good generated samples are, as a figure with an interval, a floor and the name of what looked at them.

The protocol of the room. A file holds one frozen dataclass, the first name of its `__all__`, called as

    metric(generated, reference) -> Measure(value, low, high, n, name, unit, better, extractor, floor)

- `low`, `high`: bounds of a 95% interval over samples or pairs; seeded, so the same inputs give the same bounds.
- `better`: 'higher' or 'lower'. `extractor`: what turned images into features, 'none' where nothing did.
- `floor`: the value that real samples get against other real samples, where there is one.
- Paired metrics (psnr, ssim, perceptual) take two tensors [N, C, H, W] of one shape with values in [-1, 1].
- Distributional metrics (frechet, kid, prdc) take two sets of images [N, C, H, W], or features [N, D] that the caller
  computed: these need `extractor="precomputed:NAME"`, so that the Measure tells where they came from.
- accuracy takes images and the labels [N] that were asked for.
- A sample's contribution never depends on its neighbours in a batch, and inputs are left as they were.
- Two Measures of different names or extractors do not compare: `better_than` raises.
- Shapes that differ, NaN, values far out of [-1, 1] and too few samples raise OrnsteinError with object and remedy.
"""

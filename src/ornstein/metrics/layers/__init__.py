"""What several metrics share: the Measure, its intervals, the checks of inputs and the feature extractors."""

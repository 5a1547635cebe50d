"""Evidence of the losses that make a model from data."""

"""Encoders of conditions: inputs to the dict of tensors a backbone reads, and the unconditional `null(batch)`."""

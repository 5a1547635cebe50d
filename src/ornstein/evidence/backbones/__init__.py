"""Backbones are tried by what they learn of the digits from equal means."""

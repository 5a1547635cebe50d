"""Losses that make a model from data."""

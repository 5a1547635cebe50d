"""Evidence of the methods in adapters/."""

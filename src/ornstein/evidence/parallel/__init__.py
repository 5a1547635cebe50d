"""Evidence for parallel/."""

"""Evidence for tiling/."""

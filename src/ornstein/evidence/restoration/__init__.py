"""Evidence for restoration/."""

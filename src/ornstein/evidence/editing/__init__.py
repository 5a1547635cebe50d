"""Evidence for editing/."""

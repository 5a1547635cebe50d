"""Evidence for perception/."""

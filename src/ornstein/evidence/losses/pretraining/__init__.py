"""Evidence of the methods in losses/."""

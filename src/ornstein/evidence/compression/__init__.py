"""Evidence of the methods in compression/."""

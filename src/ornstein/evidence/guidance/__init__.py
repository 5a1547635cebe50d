"""Evidence for guidance/."""

"""Evidence for steering/."""

"""Evidence for search/."""

"""What several perceptions share."""

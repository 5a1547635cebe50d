"""What two guidance rules share."""

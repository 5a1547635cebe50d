"""What steering parts share."""

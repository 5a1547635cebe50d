"""What grids share."""

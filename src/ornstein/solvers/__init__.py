"""Integration rules. Contract: the declared order, within 0.3, is measured on uneven grids of two processes."""

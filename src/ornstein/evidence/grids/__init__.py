"""Evidence of the time grids: distances to exact ends at equal calls, under solvers of first and second order."""

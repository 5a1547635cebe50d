"""Time grids: (process, steps) -> steps + 1 decreasing times. Contract: from t_max to 0, strictly, on every process."""

"""Evidence for the metrics: known values, order under growing damage, and what the older metric would have said."""

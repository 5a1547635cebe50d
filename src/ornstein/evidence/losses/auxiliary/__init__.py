"""Evidence of the auxiliary losses."""

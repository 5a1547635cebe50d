"""The nouns, the sampling loop, the block seam, the catalog. Rooms import core; core imports no room."""

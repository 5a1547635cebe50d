"""Data sets with licence, source and checksum: `len(data)`, `data.images()`, `data.labels` or `data.captions`."""

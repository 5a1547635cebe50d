"""Functions that only assemble parts. A training recipe takes its settings as keyword arguments and returns a Training."""

"""Parallel: how one job spreads over processes. Contract: a part takes a communicator
(parallel/layers/communicator.py) and N ranks, simulated or real, give what one process gives; uneven shares work, and
ranks with nothing to do; a rank that dies is an OrnsteinError on the others within the communicator's timeout, never
a hang; what crosses between ranks is counted."""

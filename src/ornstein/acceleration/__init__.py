"""Plugins of the block seam that compute less of a network.

Contract: the never-skip setting and detaching are bit-exact, branches never share memory, a sample's output does not
depend on its neighbours, and a cache says how many bytes it holds.

`attach(model, part)` hands back the function that detaches it; `run.record` says what was skipped. Schedules count the
evaluations of their own branch, so a solver that calls the network twice per step advances them twice per step.
"""

"""Steering: search and particles over trajectories, as controllers of the sampling loop. Contract: the number of
trajectories per sample is the field `budget`, at 1 the result is bit-exactly the plain sampler's; `reward(x, cond)`
scores final samples, higher is better; particles have ids and noise of their own; a sample's result does not depend
on its neighbours; what was found is in State.facts."""

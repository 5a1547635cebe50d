"""Searches over schedules of sampling. Contract: `run(evaluate, start)` answers with an Artefact of kind 'schedule'; it is
deterministic in `seed`, never worse than the start by its own objective, the start itself at budget 1, and goes on from a
saved artefact as if it had not stopped; a score that is not a finite number never wins; progress is told after each."""

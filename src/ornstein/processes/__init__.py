"""Forward processes. Contract: SNR falls with t; x0, noise, velocity, v and score convert into each other in float64;
the score of a Gaussian is its closed form; `time` inverts logSNR."""

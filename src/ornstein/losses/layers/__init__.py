"""What losses share: the laws of time, noise couplings and condition corruptors that a loss is given."""

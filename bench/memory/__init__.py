"""Compares the estimated memory of a training process with the measured peak, on CPUs."""

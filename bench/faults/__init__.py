"""Injects faults into real trainings, and compares the results with those of trainings without faults."""

"""The parts of the stage Train: baseline, loop, evaluation, staging."""

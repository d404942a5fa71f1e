"""The training stage's parts: baselines, loop, evaluation, hand-over."""

"""One folder a task: which columns it reads, what a row means, what is learnt, measured and told."""

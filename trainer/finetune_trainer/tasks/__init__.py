"""One module a task: which columns it reads, what a row means, how it becomes tokens."""

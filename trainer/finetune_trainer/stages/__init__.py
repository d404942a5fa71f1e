"""The stages of a run. Each module has one function, `run`, that reads from top to bottom."""

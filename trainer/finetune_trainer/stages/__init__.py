"""The stages of a run. The module of each stage has a function `run`."""

"""Measures checkpoints: the pause, the upload, the load, and the goodput of a training that is killed."""

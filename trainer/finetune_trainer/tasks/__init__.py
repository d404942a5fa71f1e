"""The tasks, one package each, with the modules data, model, metrics and report."""

"""One package for each task: data, model, metrics, report."""

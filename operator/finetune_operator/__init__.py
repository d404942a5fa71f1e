"""The operator: watches FineTuneJobs and turns each into checked data, a trained model and a verdict."""

"""Base and tuned models: hyperparameters, checks, loading, training methods and verification."""

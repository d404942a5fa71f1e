"""Base and tuned models: plan, checks, loading, methods, verification."""

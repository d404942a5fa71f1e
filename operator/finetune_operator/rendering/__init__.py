"""PURE: a FineTuneJob as Kubernetes objects and as the trainer's config."""

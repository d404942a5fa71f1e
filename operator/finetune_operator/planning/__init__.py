"""PURE: decides what one reconcile does about a FineTuneJob."""

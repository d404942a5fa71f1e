"""Decides the writes of one reconcile of a FineTuneJob. Pure."""

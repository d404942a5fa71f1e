"""The task TextClassification: one of several classes for each text."""

"""Reads, checks, splits and tokenises the rows of a data set."""

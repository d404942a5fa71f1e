"""Reads published folders with the programs that users read them with."""

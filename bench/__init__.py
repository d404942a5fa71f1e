"""Benchmarks: each prints a table and writes its figures as JSON; docs/benchmarks.md tells what came out."""

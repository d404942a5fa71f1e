"""The report that people open: documents in, one HTML page out. Pure."""

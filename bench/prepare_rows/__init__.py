"""How long Prepare takes for many rows, and how much memory."""

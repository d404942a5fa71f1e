"""The processes of a trainer pod: supervisor, ranks, signals, watchdog, exit code, port 8080.

The supervisor imports no torch.
"""

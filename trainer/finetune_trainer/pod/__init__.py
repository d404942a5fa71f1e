"""What goes on around a stage in its pod: ranks, signals, watchdog, exit code, port 8080. No torch here."""

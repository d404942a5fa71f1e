"""The rehearsal: a job at the shape of an 8B model, on CPUs."""

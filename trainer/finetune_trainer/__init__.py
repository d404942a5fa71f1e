"""The trainer: reads one file, runs one stage, leaves a result in S3 and a message for the operator."""

"""Checkpoints of Train in S3: one format for every world size and ZeRO stage, safetensors and JSON only."""

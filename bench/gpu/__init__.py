"""Measures a LoRA step of the product on one GPU."""

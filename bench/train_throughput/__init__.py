"""How fast the same rows are trained on: our trainer, plain Hugging Face Trainer, TRL's SFTTrainer."""

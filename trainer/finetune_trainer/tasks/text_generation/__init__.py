"""The task TextGeneration: answers of conversations, completions of prompts, or text."""

"""The task TextGeneration: conversations, prompts with completions, or raw text."""

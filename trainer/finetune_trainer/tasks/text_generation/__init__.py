"""The next token, learnt: answers of conversations, completions of prompts, or text like the given."""

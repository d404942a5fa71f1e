"""From files of rows to checked, split and tokenised rows."""

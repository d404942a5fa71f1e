"""The S3 store: transfers, keys, authorities, and what its failures mean."""

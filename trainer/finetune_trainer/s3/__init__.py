"""The client of S3 stores: transfers, credentials, CA bundles, and the classification of failures."""

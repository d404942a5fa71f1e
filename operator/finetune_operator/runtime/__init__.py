"""All I/O: watches, the work queue, the reconciler, the API client, metrics and health."""

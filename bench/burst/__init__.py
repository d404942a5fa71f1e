"""500 jobs at once: how long until each has its first Job, and what that costs the API server."""

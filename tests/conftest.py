import os

from hypothesis import settings

# A finding at a desk is worth a new seed each time; a CI run must end the same way twice.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

"""Settings of all tests."""

from hypothesis import settings

# Machines are noisy: an example that takes long is no failure.
settings.register_profile("preble", deadline=None)
settings.load_profile("preble")

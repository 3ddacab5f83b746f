"""What holds for every test."""

from hypothesis import settings

# Time limits per example would make the outcome depend on how busy the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

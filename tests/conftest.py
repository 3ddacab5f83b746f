"""What holds for every test."""

import signal

from hypothesis import settings

# Time limits per example would make the outcome depend on how busy the machine is, and random examples on luck;
# `pytest --hypothesis-profile=search` searches afresh, and for longer.
settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile("unhurried")

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that; the tests that
# interrupt a command would then wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

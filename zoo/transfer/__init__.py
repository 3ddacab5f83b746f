"""Carries plans out: talks to the Hub, moves bytes, retries, resumes. What to do is decided in `zoo.plan`."""

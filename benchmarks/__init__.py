"""Figures with a comparison in the same run. Each module says how to run it; none is part of `make test`."""

"""coremltools' own tests, with `converters.mil` answering where Apple's framework would.

`python -m tests.coremltools_suite run` runs them, `... report` sums up; see docs/runtime.md.
"""

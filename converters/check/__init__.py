"""Checks a bundle without running it: contracts between its parts, and patterns that are known to go wrong.

Facts are gathered once (`gather`), rules are pure functions over them (`rules`), findings say what to do (`run`).
"""

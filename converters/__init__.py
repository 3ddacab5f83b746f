"""From a Hugging Face checkpoint to Core ML, and back to numbers.

Nothing here is imported by `zoo pull`, `push`, `verify` or `swift`; `zoo build` reaches it through a static
table of recipe names (`zoo.build.recipes`).
"""

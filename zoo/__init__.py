"""A zoo of Core ML language-model bundles: build, prove, publish, fetch, describe."""

__version__ = "0.1.0"

"""Gemma 4 (E2B, E4B): configuration, chunks, encoders and sidecars."""

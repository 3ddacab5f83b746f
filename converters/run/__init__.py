"""Talks to a bundle: words, images and sound in, an answer out. Only the bundle's own files are used."""

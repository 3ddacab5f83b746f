"""Does a bundle compute what its checkpoint computes? Drives bundle folders and measures how far they are off."""

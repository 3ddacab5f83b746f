"""Pure decisions: what to do about the difference between what is and what should be. No input, no output."""

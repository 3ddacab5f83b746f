"""What the app would load from a folder, and talking to that on this machine."""

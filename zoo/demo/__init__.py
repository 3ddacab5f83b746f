"""The main job from one end to the other on this machine: no account, no Mac, no internet."""

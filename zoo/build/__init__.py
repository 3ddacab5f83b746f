"""From a checkpoint to a bundle: steps keyed by what decides their bytes, run by workers, assembled by links."""

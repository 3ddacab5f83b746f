"""From a checkpoint to a bundle: steps keyed by what decides their bytes, cached, run by workers, assembled by links."""

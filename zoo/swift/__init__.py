"""From locks to what a Swift app reads: `catalog.json` and `ZooCatalog.swift`."""

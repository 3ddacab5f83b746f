"""From packages to compiled models, on a Mac: `.mlpackage` to `.mlmodelc`, each package once."""

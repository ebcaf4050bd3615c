"""Config, registry, artefacts, errors and progress: what every other part stands on. Needs no torch."""

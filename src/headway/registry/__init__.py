"""Floor 3: names, versions, aliases and lineage of bundles."""

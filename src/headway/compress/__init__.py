"""Floor 4, training side: steps that make a model smaller or faster, each of which can be replayed."""

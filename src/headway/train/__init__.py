"""Floor 3, training side: one clear loop."""

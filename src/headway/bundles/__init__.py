"""Floor 2: the sealed folder that is served."""

"""Floor 3, training side: what writes a model file. One small file a format."""

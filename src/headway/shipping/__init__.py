"""Floor 5: the whole road, from a recipe or a ready model file to a sealed bundle."""

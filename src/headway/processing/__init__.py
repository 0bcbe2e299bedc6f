"""Processing: what a bundle declares to be done before and after its model. Data, never code."""

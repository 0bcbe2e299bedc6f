"""Floor 3: what every run leaves behind, readable without torch."""

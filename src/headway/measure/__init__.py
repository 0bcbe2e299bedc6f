"""Floor 3: figures with intervals. Nothing here decides; the gate does."""

"""Floor 4: answers requests. Imports neither torch nor anything of the training half."""

"""What of this machine and environment would stand in a bundle's or a recipe's way."""

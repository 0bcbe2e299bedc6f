"""Floor 1: what every other room stands on. Imports no other room of Headway."""

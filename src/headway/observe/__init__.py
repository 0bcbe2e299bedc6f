"""Floor 2: what is seen from outside: metrics and logs."""

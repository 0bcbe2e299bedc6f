"""`steps: auto`: what may be tried, what to try next, who goes on, and what came of it."""

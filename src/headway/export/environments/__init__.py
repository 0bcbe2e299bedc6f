"""Packages that quarrel with ours or weigh much: each set lives in an environment of its own."""

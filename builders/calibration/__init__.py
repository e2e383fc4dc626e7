"""Choosing the exit policy that keeps most quality within a budget of backbone layers."""

"""Other runtimes on the same weights, each in a process of its own: `python -m builders.peers`."""

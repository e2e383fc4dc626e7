"""The same inputs through the torch reference and every backend that this machine can run."""

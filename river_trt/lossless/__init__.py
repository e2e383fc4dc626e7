"""Lossless mode: the river drafts, the backbone verifies, in the same slots of one cache."""

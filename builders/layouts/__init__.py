"""How weights lie in an engine's files, where more than one backend lays them out so."""

"""Errors a user can cause. The CLI prints them in one line and exits with code 2."""


class RiverError(ValueError):
    """Something the user gave is wrong; the message names the value and the rule."""


class PromptError(RiverError):
    """A prompt is empty, too long, or holds what the model has no token for."""


class EngineError(RiverError):
    """An engine directory is damaged, foreign, or of another version or machine."""


class CheckpointError(RiverError):
    """A model checkpoint is missing, incomplete, unsafe, or of an unsupported family."""


class RiverWarning(UserWarning):
    """Something works, but not as the user may think; the CLI prints it in one line."""


class MissingDependencyError(RiverError):
    """An optional package is needed; the message holds the pip command that installs it."""

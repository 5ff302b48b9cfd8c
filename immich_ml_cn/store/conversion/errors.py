"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """The file is refused; the message, of `tr`, is one sentence that names the file and says why."""

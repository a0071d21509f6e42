"""The one exception a user of this package has to know."""


class ModelError(ValueError):
    """A mistake in a world model's configuration, shapes or files; the message names the fix."""

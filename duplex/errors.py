"""The errors that a user of `duplex` can mend.

Every message is one line that names the file or the setting and says what to do about it; the commands print
it after `error:` and exit with status 2, so a traceback is always a defect of the program.
"""


class DuplexError(ValueError):
    """Base of every error caused by input, configuration or files rather than by a defect."""


class InputError(DuplexError):
    """Audio, tokens or text that cannot be used: wrong type, shape, range or content."""


class ConfigError(DuplexError):
    """A configuration key or value that does not exist or does not fit the others."""


class CheckpointError(DuplexError):
    """A model folder or weight file that is missing, damaged or of another shape than its configuration."""

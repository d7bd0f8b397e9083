"""An open research stack for full-duplex spoken dialogue."""

__version__ = "0.1.0"

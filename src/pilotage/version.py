"""The one place that holds the version of Pilotage."""

__version__ = "0.1.0"

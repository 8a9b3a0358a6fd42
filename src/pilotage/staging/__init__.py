"""Staging on one machine, or one file system: directives done, whole or not at all."""

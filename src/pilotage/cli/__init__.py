"""The command ``pilotage``: one module for each group of commands, and the renderers of what they say."""

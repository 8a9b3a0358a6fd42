"""Named environments: built, and evaluated once to the difference that they make."""

"""Named environments: what a user says of one is read (``spec``), the environment is built if it is not there (``building``),
and evaluated once, in a shell (``evaluation``), to the difference that it makes to the user's own. ``own`` has ours.
"""

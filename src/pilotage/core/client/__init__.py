"""The client's core: what a session has promised, and to which pilot. Pure: events in, facts and actions out."""

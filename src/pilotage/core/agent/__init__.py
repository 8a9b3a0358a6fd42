"""The agent's core: what becomes of the tasks of one pilot. Pure: events in, facts and actions out."""

"""The metascheduler: which partition of a pilot runs which task. Pure, like the agent's core and the client's."""

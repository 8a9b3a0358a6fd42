"""The process on each node of a pilot of several: it runs the node's tasks for an agent on another node."""

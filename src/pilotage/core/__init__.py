"""Decisions without input or output: the state machines of agent and client, and the scheduling policies."""

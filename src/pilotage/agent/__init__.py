"""The agent's shell: bootstrap, event loop, runners, the client's link; all decisions are in ``core.agent``."""

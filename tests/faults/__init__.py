"""The crash suite: everything is killed at every moment, and a witness outside of Pilotage tells what really happened."""

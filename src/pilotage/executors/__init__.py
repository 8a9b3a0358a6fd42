"""Executors run placed tasks: ``local`` by spawners and function workers on this node, ``simulated`` by letting time pass."""

"""A world without machines: a virtual clock, models of machines and launchers, workloads and faults, around the real cores."""

"""What the operating system knows: who a process is, and how our own processes are started. Standard library only."""

"""Launch methods: which mpiexec is here, and the command line that starts a task's ranks with it. Pure but for the look-up."""

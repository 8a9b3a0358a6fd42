"""Launch methods: from the places of a task's ranks to a command line. Pure functions, but for those that look what is there.

``mpiexec`` finds and identifies mpiexecs, ``launch_line`` renders their command lines, ``outer`` removes what another launch
left in the environment; ``libmpi`` reads which MPI library a program needs, ``mismatch`` explains a program that was started
by another MPI's mpiexec, ``probe`` tries a launcher with a real program of two ranks.
"""

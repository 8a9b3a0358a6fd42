"""Launch methods: from the places of a task's ranks to a command line. Pure functions, but for those that look what is there.

``method`` says what a launch method is, ``registry`` which there are; each family has a file: ``slurm``, ``mpi_methods``,
``vendor_mpi``, ``cray``, ``ibm``, ``ibrun``, ``prrte``, ``flux``, ``remote_shells``. ``spread`` is how ranks lie on nodes,
``rank_script`` what stands between a launcher and each rank's program, ``launch_line`` the one case of one host, ``outer``
removes what another launch left in the environment.

``mpiexec`` finds and identifies mpiexecs; ``libmpi`` reads which MPI library a program needs, ``mismatch`` explains a program
that was started by another MPI's mpiexec, ``probe`` tries a launcher with a real program of two ranks.
"""

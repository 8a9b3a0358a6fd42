"""What mpiexecs print when asked for their version: recorded from real ones."""

from __future__ import annotations

MPICH_5 = """\
HYDRA build details:
    Version:                                 5.0.2
    Release Date:                            Fri Sep 25 20:45:26 UTC 2026
    CC:                              cc
    Configure options:                       --with-device=ch4:ucx,ofi --with-pm=hydra:gforker
    Process Manager:                         pmi
    Launchers available:                     ssh rsh fork slurm ll lsf sge manual persist
    Topology libraries available:            hwloc
    Resource management kernels available:   user slurm ll lsf sge pbs cobalt
    Demux engines available:                 poll select
"""

MPICH_3 = """\
HYDRA build details:
    Version:                                 3.4.2
    Release Date:                            Wed May 26 15:51:40 CDT 2021
    CC:                              gcc
    Configure options:                       '--disable-option-checking'
"""

OPENMPI_5 = """\
mpiexec (Open MPI) 5.0.11

Report bugs to https://www.open-mpi.org/community/help/
"""

OPENMPI_4 = """\
mpiexec.openmpi (OpenRTE) 4.1.4

Report bugs to http://www.open-mpi.org/community/help/
"""

OPENMPI_4_AMID_WARNINGS = """\
[login1:20312] mca_base_component_repository_open: unable to open mca_plm_tm: libtorque.so.2: cannot open shared object file
mpirun (Open MPI) 4.1.5rc2

Report bugs to http://www.open-mpi.org/community/help/
"""

INTEL = """\
Intel(R) MPI Library for Linux* OS, Version 2021.18.1 Build 20260626 (id: b44796a)
Copyright 2003-2026, Intel Corporation.
"""

INTEL_2018 = """\
Intel(R) MPI Library for Linux* OS, Version 2018 Update 3 Build 20180411 (id: 18329)
Copyright 2003-2018 Intel Corporation.
"""

PALS = "mpiexec version 1.8.0 revision 8a2b3c4\n"

GFORKER = """\
invalid mpiexec argument --version
Usage: mpiexec -usize <universesize> -maxtime <seconds> -exitinfo -l\\
               -n <numprocs> -soft <softness> -host <hostname> \\
"""

TRUE = "true (GNU coreutils) 9.1\nCopyright (C) 2022 Free Software Foundation, Inc.\n"

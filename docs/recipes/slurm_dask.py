"""A map by Dask workers that SLURM starts: ``pip install dask-jobqueue; python slurm_dask.py``.

Run it on a login node, or in a job of its own: it lasts as long as the map takes.
"""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

COMMAND = [
    "cafe", "predict", "best.safetensors", "--optical", "ortho.tif", "--elevation", "dsm.tif",
    "-o", "map.tif", "--resume",
]  # fmt: skip

if __name__ == "__main__":
    # A job is a worker: one process and one thread, to which cafe gives all cores of the job. On
    # GPUs, add job_extra_directives=["--gpus=1"].
    with SLURMCluster(
        cores=1, processes=1, job_cpu=8, memory="16GB", walltime="04:00:00",
        # queue="partition", account="project", interface="ib0",
    ) as cluster:  # fmt: skip
        cluster.scale(jobs=40)
        sys.exit(subprocess.call([*COMMAND, "--scheduler", cluster.scheduler_address]))

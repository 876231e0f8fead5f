"""Faults injected into the commands, and what was lost: the figures of docs/reliability.md.

    python -m benchmarks.faults OUT [--kills 50] [--only tile train ...] [--faults kill disk ...]

Every command of `cases` runs on small scenes, first without a fault, then again and again with one.
A fault is survived if all of this holds:

- after it, every file under a final name is whole: it is the old one or the new one, to the byte
  (the files of a training run, which are replaced epoch by epoch: each opens);
- the inputs are as they were;
- the same command, run again with ``--resume`` or ``--overwrite``, ends with exit code 0, and
  leaves the files of the run without faults and no other: no temporary file, lock or journal;
- where the command could still speak, it said one line without a traceback, and its exit code is
  the one that the documentation promises.

Files are compared by their bytes but for what holds times: those in GeoPackages are left out; model
files are compared by tensors and metadata, the history without its columns of times; of the report
and the TensorBoard files only the presence is.

===========  ==================================================================
kill         SIGKILL to the command and its children at random moments
signals      SIGINT, SIGTERM, SIGHUP, and a closed pipe at stdout
pair         two runs on one output, the second a random time after the first
disk         a disk that is full at a random size (needs root, for a tmpfs)
io           a write or fsync that fails with EIO or ENOSPC (needs strace)
soak         memory and open files of `predict`: one large raster, many small
===========  ==================================================================

Half of the moments are drawn from the whole duration of a run, half from the part after it first
touches its folder. A run that ends before its moment does not count and is drawn again. Each result
is added to OUT/results.jsonl at once; the table is made from all lines there.
"""

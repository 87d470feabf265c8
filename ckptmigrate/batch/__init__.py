"""Batches: commands on several checkpoints, one task each; a failure does not stop the others.

paths.py         finds the checkpoints of the PATHs
roots.py         chooses and checks the new roots and writes tracker files
shard.py         selects the tasks of this run
phases.py        makes the tasks of a request
tasks.py         performs a task
ledger.py        records finished tasks in a file
executors.py     runs tasks in this process
processes.py     runs tasks in processes on this host
dask_cluster.py  runs tasks on a Dask cluster
drive.py         runs a whole batch
summary.py       formats the result of a batch
"""

"""Batches: commands on several checkpoints, one task each; a failure does not stop the others.

paths.py         finds the checkpoints of the PATHs
shard.py         selects the tasks of this run
work.py          defines a task (Task) and its result (Outcome)
changing.py      the commands that change a checkpoint
looking.py       the commands that only read a checkpoint
ledger.py        records finished tasks in a file
running.py       runs tasks in this process
processes.py     runs tasks in processes on this host
cluster.py       runs tasks on a Dask cluster
destinations.py  chooses the new roots
roots.py         checks existing roots and writes tracker files
driving.py       runs a whole batch
telling.py       formats the results of a batch
"""

"""Many checkpoints: each is a task of its own, and one that fails stops no other.

paths.py      from the PATHs of a user to the checkpoints they mean
shard.py      which of them this run is to take
work.py       what is to be done to one checkpoint (Task), and what came of it (Outcome)
changing.py   the verbs that change a checkpoint, as work on one
looking.py    the verbs that look at one, too
ledger.py     what is done already, in a file
running.py    tasks in, outcomes out, in this process
processes.py  the same in processes of this machine
cluster.py    the same on a Dask cluster
destinations.py  where the new roots go
roots.py      what is in them already, and their tracker files
driving.py    all of it in order
telling.py    what is told of a batch as a whole
"""

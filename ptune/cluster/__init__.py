"""Jobs on the machines of a Ray cluster: rows that are answered, trainings in several processes, trials of a search.

Imported only where a command is given `--ray`.
"""

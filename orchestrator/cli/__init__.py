"""`edgectl`, where operators live: a thin client of the operator API, and the lab's commands.

Modules are imported when their command runs, so that `edgectl --help` and shell completion answer at once.
"""

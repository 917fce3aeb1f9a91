"""Configuration: from the files of a directory to one validated value, or to all findings at once.

Pure functions: text in, values out. `compile.load_configuration` is the entry.
"""

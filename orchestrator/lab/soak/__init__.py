"""The soak: thousands of random changes of a fleet under load, and what its agents hold of memory, files and maps.

What grows with every change fills up one day. `edgectl lab soak` counts after the first thousand and at the end.
"""

"""Chaos: what may go wrong in a fleet, done to the lab under load, one scenario after another.

Each scenario has its own load: long flows and short requests over both families, every one watched for breakage, and a
sequence-numbered stream of datagrams. What it did to the lab it undoes. `edgectl lab chaos` runs them.
"""

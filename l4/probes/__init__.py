"""Probes: what an L4 node sees of the members, along the way that clients' packets take."""

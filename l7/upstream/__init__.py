"""Behaviour towards backends: pools, balancing, health."""

"""Hosts and routes of a snapshot, compiled into a matcher."""

"""Load on the lab, and what becomes of it: long flows of several kinds and short requests, each watched for breakage.

The generator runs inside the client's namespace as a process of its own (`python -m orchestrator.lab.load`): it reads a
plan and commands from stdin and tells what it sees on stdout, one JSON object a line (`messages`).
"""

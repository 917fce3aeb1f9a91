"""Where the orchestrator keeps what must survive: one small interface, and SQLite behind it."""

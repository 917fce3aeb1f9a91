"""The fleet: who may join, who is a member, which generations live, who drains, and what each node must run.

The fleet's state is one immutable document (`document`). What changes it is a pure function (`membership`, `drain`,
`retirement`); `ledger` saves the result by compare-and-swap. What each agent must run is a pure function of that
document and the configuration (`snapshots`). Reports stay in memory (`reports`).
"""

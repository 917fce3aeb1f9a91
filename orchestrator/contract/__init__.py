"""What all tiers share: the types of VIPs, pools, generations, routes, snapshots and reports, and the node client.

The contract imports nothing else of the product. Words are those of the architecture: see `docs/architecture.md`.
"""

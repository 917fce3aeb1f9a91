"""The control plane: configuration, state, fleet, API, command line and lab. `contract` is all that the tiers see."""

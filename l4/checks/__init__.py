"""What operators of such systems trip over, one module for each concern: looked at, explained, and mended.

`l4.checks.checkup` runs them all: for an agent that is asked (`edgectl doctor`), or on a host without one
(`edge-l4 doctor`). A check reads the kernel, and changes nothing.
"""

"""All scenarios, in the order in which they are run."""

from typing import Final

from orchestrator.lab.chaos import (
    drains,
    l4_faults,
    program_replacements,
    proxy_faults,
    service_faults,
    site_faults,
    syn_flood,
    table_swaps,
)
from orchestrator.lab.chaos.scenario import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    table_swaps.SCENARIO,
    program_replacements.SCENARIO,
    syn_flood.SCENARIO,
    *l4_faults.SCENARIOS,
    *proxy_faults.SCENARIOS,
    *service_faults.SCENARIOS,
    *drains.SCENARIOS,
    *site_faults.SCENARIOS,
)

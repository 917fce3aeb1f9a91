"""All scenarios, in the order in which they are run."""

from typing import Final

from orchestrator.lab.chaos import program_replacements, syn_flood, table_swaps
from orchestrator.lab.chaos.scenario import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    table_swaps.SCENARIO,
    program_replacements.SCENARIO,
    syn_flood.SCENARIO,
)

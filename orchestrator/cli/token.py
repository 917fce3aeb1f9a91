"""`edgectl token`."""

import sys

import click

from orchestrator.cli.invocation import Invocation, NodeName, fleet_options

ROLES = ("balancer", "redirector", "proxy")


@click.command(
    epilog="""\b
Examples:
  edgectl token proxy-4 redirector > redirector.token
  edgectl token proxy-4 proxy --ttl 600 > proxy.token
  edge-l7 run --state DIR --orchestrator https://A:7443 --node proxy-4 --token-file proxy.token
"""
)
@click.argument("node", type=NodeName())
@click.argument("role", type=click.Choice(ROLES))
@click.option("--ttl", type=click.IntRange(1, 7 * 86400), default=3600, show_default=True, help="Lifetime in seconds.")
@fleet_options
def token(invocation: Invocation, node: str, role: str, ttl: int) -> None:
    """A one-time token with which the agent ROLE on NODE joins the fleet. Shown once; used once."""
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract.node import AgentRole
    from orchestrator.contract.operator import TokenRequest

    request = TokenRequest(node=node, role=AgentRole(role), ttl_s=ttl)
    answer = call_fleet(invocation.credentials(), lambda api: api.token(request))
    if invocation.terminal.as_json:
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(answer.token + "\n")
        invocation.terminal.note(f"valid once, for {ttl} s, for {role} on {node}")

"""`edgectl`: the command line of the fleet."""

from orchestrator.cli.invocation import Edgectl, before_command, before_command_options

EPILOG = """\
\b
At three in the morning:
  edgectl status                      who is there, who serves what, what is wrong
  edgectl drain proxy-1               take a proxy out; its flows run out, none breaks
  edgectl drain proxy-1 --cancel      changed my mind
  edgectl undrain proxy-1             back into service
  edgectl restart proxy-1             a new start, or a new release, without a refused connection
  edgectl get table --node l4-1       what an L4 node really forwards to, read from its kernel
  edgectl guard show                  is anything dropped, where and why; `edgectl guard --help` for floods
  edgectl capture web-v4 -w web.pcapng    packets as they leave the L4 nodes, for tcpdump and Wireshark
  edgectl capture web-v4 --drops-only     what is dropped, and why
  edgectl doctor                      what is wrong on the hosts themselves, and the command that mends it
  edgectl trace 198.51.100.7:40000 203.0.113.10    a flow's whole way, to its backend
  edgectl trace-packet --src 198.51.100.7:40000 --dst 203.0.113.10:443      where it would go, and why

\b
Exit codes: 0 done · 1 failed, or there are findings · 2 wrong command line
            3 refused by a guard, nothing changed · 4 no orchestrator answered (traffic flows on)

\b
Completion:  eval "$(_EDGECTL_COMPLETE=bash_source edgectl)"     (or zsh_source, fish_source)
"""

main = Edgectl(
    name="edgectl",
    help="Operate an edgefleet: configure it, look at it, drain it. Every command has --help with examples.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    params=before_command_options(),
    callback=before_command,
    lazy={
        "status": ("orchestrator.cli.views:status", "The fleet at a glance."),
        "get": (
            "orchestrator.cli.views:get",
            "List VIPs, pools, sites, nodes, hosts, backends, drains, generations, tables.",
        ),
        "apply": ("orchestrator.cli.apply:apply", "Make a configuration directory the fleet's configuration."),
        "drain": ("orchestrator.cli.drain:drain", "Take a proxy out of new flows, and wait until its old ones ended."),
        "undrain": ("orchestrator.cli.drain:undrain", "Give a drained proxy new flows again."),
        "restart": (
            "orchestrator.cli.restart:restart",
            "Restart proxies, without a broken request.",
        ),
        "guard": ("orchestrator.cli.guard:guard", "Block sources, and limit new flows: under attack, and before."),
        "capture": ("orchestrator.cli.capture:capture", "Packets of a VIP as they leave the L4 nodes, into a file."),
        "trace-packet": (
            "orchestrator.cli.trace_packet:trace_packet",
            "What would become of a packet, on each node that it would reach.",
        ),
        "doctor": ("orchestrator.cli.doctor:doctor", "What is wrong on the hosts, and the command that mends it."),
        "trace": ("orchestrator.cli.trace:trace", "A flow's whole way: routers, L4 node, proxy, backend."),
        "token": ("orchestrator.cli.token:token", "A one-time token with which an agent joins the fleet."),
        "lab": ("orchestrator.cli.lab:lab", "A whole fleet on this machine, to try things on; and the demo."),
    },
)

"""Verdicts and counters in words, for whoever looks at three in the morning. docs/protocol.md has them all."""

from orchestrator.contract.inquiry import Verdict

#: `enum xdp_action`.
VERDICTS = {0: Verdict.ABORTED, 1: Verdict.DROPPED, 2: Verdict.PASSED, 3: Verdict.SENT, 4: Verdict.SENT}

#: What a counter means when it is the reason. A counter that is not here stands for itself.
REASONS = {
    "other_protocol": "neither TCP nor UDP nor an ICMP error",
    "fragment": "a fragment, of which nobody could tell whose flow it is",
    "truncated": "cut short within a header",
    "bad_ip_header": "wrong IP version or header length",
    "bad_ip_length": "an IP length that lies",
    "bad_tcp_header": "an impossible TCP data offset",
    "bad_tcp_flags": "flags that no TCP sends",
    "foreign_quote": "an ICMP error that quotes nothing of this address",
    "no_settings": "the agent has not set this node up yet",
    "no_table": "the VIP's pool has no table in this kernel",
    "empty_chain": "the row has no owner: does the pool have an active member?",
    "no_owner": "the row's owners are all unknown to this kernel",
    "blocked": "its source is on the block list: `edgectl guard`",
    "syn_source_limit": "too many new flows of its source's network",
    "syn_vip_limit": "too many new flows to this VIP",
    "new_flow_limit": "too many new flows on this node",
    "packet_too_big": "encapsulated, it would exceed the MTU of the way out",
    "too_big_answered": "encapsulated, it would exceed the MTU of the way out; its sender is told what fits",
    "too_big_limited": "encapsulated, it would exceed the MTU of the way out; too many were told so just now",
    "too_big_unanswerable": "encapsulated, it would exceed the MTU of the way out; its sender must not be told",
    "echo_answered": "a ping of the VIP, answered here",
    "echo_limited": "a ping of the VIP, and too many were answered just now",
    "echo_passed": "a ping with options, which the kernel answers",
    "echo_unanswerable": "a ping from an address that is no host's",
    "no_source": "the node has no underlay address of the member's family",
    "no_mac": "the member's Ethernet address is not known: is it in this segment?",
    "fib_blackhole": "the route to the member is a blackhole",
    "fib_unreachable": "the route to the member is an unreachable one",
    "fib_prohibited": "the route to the member prohibits",
    "fib_not_forwarded": "no route to the member, or its address is this node's own, or a broadcast address",
    "fib_forwarding_disabled": "the interface does not forward: see sysctl net.ipv4.conf.*.forwarding",
    "fib_unsupported": "the route to the member has an encapsulation of its own",
    "fib_no_neighbour": "the next hop's Ethernet address is not known",
    "fib_failed": "the kernel could not look the route up",
    "no_room": "no room for the encapsulation in the driver's buffer",
    "source_refused": "its sender is neither an L4 node nor a fellow member, by this host's snapshot",
    "malformed_outer": "outer lengths that lie, or a fragment",
    "malformed_gue": "a tunnel header of another version or shape",
    "local_syn": "a new flow, which belongs here",
    "local_probe": "an L4 node asks whether this host serves",
    "local_socket": "this host has the flow's socket",
    "local_syncookie": "it completes a handshake by a valid SYN cookie",
    "local_ipip": "it came without a chain, so it belongs here",
    "local_udp": "UDP belongs where it is sent",
    "chain_spent": "nobody in the chain knows the flow: the kernel answers RST",
    "second_chance": "not here: sent on to the next owner",
    "ttl_expired": "it has travelled too often",
}


def reason_in_words(reason: str) -> str:
    """ "bad_tcp_flags (flags that no TCP sends)"."""
    return f"{reason} ({REASONS[reason]})" if reason in REASONS else reason

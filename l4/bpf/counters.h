/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Counters by name. Each list below is the only place that names its counters: the loader reads the
 * names from here, in this order. A new counter goes to the end of its program's list; anything
 * else changes the meaning of pinned values and needs a new layout of `counters` and `vip_drops`
 * (l4/pins.py).
 */
#ifndef EDGE_COUNTERS_H
#define EDGE_COUNTERS_H

#include <uapi/linux/types.h>

/* What parse.h may find wrong or foreign in a packet to a VIP. Shared by both programs. */
#define PARSE_COUNTERS(X)                                                                          \
	X(other_protocol)                                                                          \
	X(too_many_extensions)                                                                     \
	X(fragment)                                                                                \
	X(truncated)                                                                               \
	X(bad_ip_header)                                                                           \
	X(bad_ip_length)                                                                           \
	X(bad_tcp_header)                                                                          \
	X(bad_tcp_flags)                                                                           \
	X(foreign_quote)                                                                           \
	X(source_route)                                                                            \
	X(bad_udp_length)

#define BALANCER_COUNTERS(X)                                                                       \
	X(forwarded)                                                                               \
	X(no_settings)                                                                             \
	X(no_table)                                                                                \
	X(empty_chain)                                                                             \
	X(member_unknown)                                                                          \
	X(owner_not_live)                                                                          \
	X(fail_open)                                                                               \
	X(packet_too_big)                                                                          \
	X(no_room)                                                                                 \
	X(flow_table_misses)                                                                       \
	X(icmp_errors)                                                                             \
	X(no_owner)                                                                                \
	X(quic_by_server_id)                                                                       \
	X(quic_unknown_server)                                                                     \
	X(blocked)                                                                                 \
	X(syn_source_limit)                                                                        \
	X(syn_vip_limit)                                                                           \
	X(new_flow_limit)                                                                          \
	X(syn_retransmissions)                                                                     \
	X(flows_not_remembered)                                                                    \
	X(no_mac)                                                                                  \
	X(no_source)                                                                               \
	X(too_big_answered)                                                                        \
	X(too_big_limited)                                                                         \
	X(too_big_unanswerable)                                                                    \
	X(echo_answered)                                                                           \
	X(echo_limited)                                                                            \
	X(echo_unanswerable)                                                                       \
	X(echo_passed)                                                                             \
	X(fib_blackhole)                                                                           \
	X(fib_unreachable)                                                                         \
	X(fib_prohibited)                                                                          \
	X(fib_not_forwarded)                                                                       \
	X(fib_forwarding_disabled)                                                                 \
	X(fib_unsupported)                                                                         \
	X(fib_no_neighbour)                                                                        \
	X(fib_failed)

#define REDIRECTOR_COUNTERS(X)                                                                     \
	X(source_refused)                                                                          \
	X(malformed_outer)                                                                         \
	X(malformed_gue)                                                                           \
	X(local_syn)                                                                               \
	X(local_socket)                                                                            \
	X(local_syncookie)                                                                         \
	X(chain_spent)                                                                             \
	X(second_chance)                                                                           \
	X(member_unknown)                                                                          \
	X(owner_not_live)                                                                          \
	X(ttl_expired)                                                                             \
	X(no_room)                                                                                 \
	X(icmp_errors)                                                                             \
	X(local_ipip)                                                                              \
	X(owner_of_other_family)                                                                   \
	X(local_udp)                                                                               \
	X(local_fragment)                                                                          \
	X(local_echo)                                                                              \
	X(local_probe)

#define AS_CONSTANT(name) COUNT_##name,

/* The first counters of both programs: their own enums go on where this one ends. */
enum parse_counter {
	PARSE_COUNTERS(AS_CONSTANT) PARSE_COUNTERS_END,
};

/* Entries of the pinned array: more than are named, so that a later version can name more. */
#define COUNTER_SLOTS 128

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The redirector's maps, and its counters. */
#ifndef EDGE_REDIRECTOR_MAPS_H
#define EDGE_REDIRECTOR_MAPS_H

#include "counters.h"
#include "flow.h"
#include "pin.h"

enum redirector_counter {
	REDIRECTOR_COUNTERS_START = PARSE_COUNTERS_END - 1,
	REDIRECTOR_COUNTERS(AS_CONSTANT) REDIRECTOR_COUNTERS_END,
};

BPF_TABLE_PINNED("percpu_array", __u32, __u64, counters, COUNTER_SLOTS, PIN(counters));

static __always_inline void count(__u32 counter)
{
	__u64 *value = counters.lookup(&counter);

	if (value)
		*value += 1;
}

struct redirector_settings {
	__be32 v6[4]; /* this host's addresses on the underlay; 0: none */
	__be32 v4;
	__u16 mac[3]; /* of the interface: frames for others are not ours. 0: any frame is taken */
	__u16 zero;   /* always, which the verifier does not know: see tunnel.h */
};

BPF_TABLE_PINNED("array", __u32, struct redirector_settings, settings, 1, PIN(settings));

/* Who may send encapsulated packets here: a tunnel that anyone can write to is a hole. */
#define MAX_TUNNEL_SOURCES 16384

enum tunnel_source {
	SOURCE_MEMBER = 1,
	SOURCE_L4_NODE, /* connections from there, in the tunnel, are probes */
};

struct underlay_address {
	__be32 octets[4] WORD_ALIGNED; /* IPv4 is mapped */
};

BPF_TABLE_PINNED("hash", struct underlay_address, __u32, tunnel_sources, MAX_TUNNEL_SOURCES,
		 PIN(tunnel_sources));

/* The L4 node that brought each flow's first packet here. The proxy asks once, at accept, so an
 * entry need only outlive the handshake; flows that are never accepted are pushed out by newer
 * ones. */
#define INGRESS_ENTRIES 65536

struct ingress {
	__u64 arrived;	 /* nanoseconds, CLOCK_MONOTONIC */
	__be32 sequence; /* of the SYN: tells one sent again from one of a new flow */
	__u16 l4_node;	 /* 0: not known, as behind IP in IP */
	__u16 zero;
};

BPF_TABLE_PINNED("lru_hash", struct flow, struct ingress, ingress, INGRESS_ENTRIES, PIN(ingress));

/* Notes a SYN. One sent again leaves the record of the first as it is. */
static __always_inline void record_syn(struct flow *flow, __be32 sequence, __u16 l4_node)
{
	struct ingress record = {
	    .arrived = bpf_ktime_get_ns(), .sequence = sequence, .l4_node = l4_node};
	struct ingress *known = ingress.lookup(flow);

	if (!known || known->sequence != sequence)
		ingress.update(flow, &record);
}

/* Notes a handshake's end, whose SYN may have been pushed out of the map by a flood of others. */
static __always_inline void record_handshake(struct flow *flow, __u16 l4_node)
{
	struct ingress record = {.arrived = bpf_ktime_get_ns(), .l4_node = l4_node};

	ingress.insert(flow, &record);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The balancer's maps, and its counters. */
#ifndef EDGE_BALANCER_MAPS_H
#define EDGE_BALANCER_MAPS_H

#include "counters.h"
#include "flow.h"
#include "outcome.h"
#include "pin.h"

enum balancer_counter {
	BALANCER_COUNTERS_START = PARSE_COUNTERS_END - 1,
	BALANCER_COUNTERS(AS_CONSTANT) BALANCER_COUNTERS_END,
};

BPF_TABLE_PINNED("percpu_array", __u32, __u64, counters, COUNTER_SLOTS, PIN(counters));

static __always_inline void count(__u32 counter)
{
	__u64 *value = counters.lookup(&counter);

	if (value)
		*value += 1;
}

struct balancer_settings {
	__u64 hash_key[2];
	__be32 source_v6[4]; /* outer source addresses */
	__be32 source_v4;
	__u16 node_id; /* travels in GUE */
	__u16 mtu;     /* of the interface: largest outer IP packet */
	__u16 mac[3];  /* of the interface: other frames are not ours; 0: any is */
	__u16 flags;
};

#define NODE_FIB 1	  /* the kernel's routes choose the way out */
#define NODE_TAP 2	  /* somebody captures: see tap.h */
#define NODE_LISTS_IPV4 4 /* the guard's lists name IPv4 sources */
#define NODE_LISTS_IPV6 8
#define NODE_LISTS_OTHER 16 /* which half of `guard_ipv4` */

/* An array of one map of one entry: settings change as a whole, between two packets. */
BPF_TABLE("array", __u32, struct balancer_settings, settings_prototype, 1);
BPF_TABLE_PINNED("array_of_maps$settings_prototype", __u32, __u32, settings, 1, PIN(settings));

static __always_inline struct balancer_settings *find_settings(void)
{
	__u32 zero = 0;
	void *current = settings.lookup(&zero);

	return current ? bpf_map_lookup_elem(current, &zero) : NULL;
}

#define VIP_FLOW_TABLE 1  /* open flows go by the flow table */
#define VIP_HASH_SOURCE 2 /* the row goes by the client's address alone */
#define VIP_QUIC 4	  /* short headers go by the server id in their connection id */

enum encapsulation {
	ENCAPSULATE_GUE,
	ENCAPSULATE_IPIP,
	REWRITE_L2,
};

struct vip {
	__u32 id;
	__u16 slot; /* of its pool's table */
	__u8 flags;
	__u8 encapsulation;
};

/* VIPs of one address and one port. Twice and more, so that a new set of VIPs can be entered before
 * the old one is removed. */
BPF_TABLE_PINNED("hash", struct service, struct vip, vips, 4 * MAX_VIPS, PIN(vips));

/*
 * The same once more, for most of them: an array, found by multiplication, that answers in a third
 * of the time. Whoever falls to a place that is taken is in `vips` alone. It changes as a whole.
 */
#define VIP_INDEX_BITS 12

struct indexed_vip {
	struct service service; /* protocol 0: an empty place */
	struct vip vip;
	__u32 zero;
};

BPF_F_TABLE("array", __u32, struct indexed_vip, vip_index_prototype, 1 << VIP_INDEX_BITS,
	    BPF_F_MMAPABLE);
BPF_TABLE_PINNED("array_of_maps$vip_index_prototype", __u32, __u32, vip_index, 1, PIN(vip_index));

/*
 * All VIPs' addresses, single ones included, to the set of ports that is served there. A set is
 * filled under a new number before the address is pointed to it: a VIP changes as a whole.
 */
struct vip_prefix {
	__u32 length; /* in bits; of an IPv4 prefix, 96 more, as the address is mapped */
	__be32 address[4];
};

BPF_TABLE_PINNED("lpm_trie", struct vip_prefix, __u32, vip_prefixes, 2 * MAX_VIPS,
		 PIN(vip_prefixes), BPF_F_NO_PREALLOC);

/*
 * The ports of each set. Ranges are entered as prefixes of ports, any port as the empty prefix.
 * What has no ports, a fragment, is looked up as `portless`.
 */
#define MAX_VIP_PORTS 65536

struct vip_port {
	__u32 length; /* in bits of what follows: 64 for one port, 48 for any */
	__u32 set;
	__u8 protocol;
	__u8 portless;
	__be16 port;
};

BPF_TABLE_PINNED("lpm_trie", struct vip_port, struct vip, vip_ports, MAX_VIP_PORTS, PIN(vip_ports),
		 BPF_F_NO_PREALLOC);

/* Members by the server id that their QUIC connection ids bear, in each pool's slot. */
#define MAX_QUIC_SERVERS 65536

struct quic_server {
	__u32 slot;
	__u32 id;
};

BPF_TABLE_PINNED("hash", struct quic_server, __u32, quic_servers, MAX_QUIC_SERVERS,
		 PIN(quic_servers), BPF_F_NO_PREALLOC);

struct traffic {
	__u64 packets;
	__u64 bytes; /* of inner IP packets */
};

BPF_TABLE_PINNED("percpu_array", __u32, struct traffic, vip_traffic, IDENTIFIERS, PIN(vip_traffic));
BPF_TABLE_PINNED("percpu_array", __u32, __u64, member_packets, IDENTIFIERS, PIN(member_packets));

/* Packets to a VIP that were dropped, by VIP and by the index of the counter that says why. */
#define MAX_VIP_DROPS 32768

struct vip_drop {
	__u32 vip_id;
	__u32 counter;
};

BPF_TABLE_PINNED("percpu_hash", struct vip_drop, __u64, vip_drops, MAX_VIP_DROPS, PIN(vip_drops),
		 BPF_F_NO_PREALLOC);

static __always_inline int drop_from(const struct vip *vip, __u32 counter)
{
	struct vip_drop key = {.vip_id = vip->id, .counter = counter};
	__u64 *value = vip_drops.lookup(&key), one = 1;

	count(counter);
	if (value)
		*value += 1;
	else
		vip_drops.update(&key, &one);
	return because(XDP_DROP, counter, vip->id);
}

/* COUNT_forwarded is the sum over VIPs, which whoever asks for it draws: l4/vip_counters.py. */
static __always_inline void count_forwarded(__u32 vip_id, __u32 bytes, __u32 member_id)
{
	struct traffic *traffic = vip_traffic.lookup(&vip_id);
	__u64 *packets = member_packets.lookup(&member_id);

	if (traffic) {
		traffic->packets += 1;
		traffic->bytes += bytes;
	}
	if (packets)
		*packets += 1;
}

#endif

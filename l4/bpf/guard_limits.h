/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * How many new flows are too many? Asked of every SYN, and of every other flow that the
 * flow table is to remember. Rates are kept by the generic cell rate algorithm (ITU-T I.371): all
 * that a bucket holds is when its next packet would be due if they came evenly; who is too early,
 * waits.
 */
#ifndef EDGE_GUARD_LIMITS_H
#define EDGE_GUARD_LIMITS_H

#include <uapi/linux/in.h>

#include "balancer_maps.h"
#include "packet.h"
#include "siphash.h"

#define ADMITTED (-1) /* any other answer is the counter that says why not */

struct limit {
	__u64 interval;	 /* nanoseconds between two packets at the full rate; 0: no limit */
	__u64 tolerance; /* nanoseconds that a packet may be early: the burst */
};

struct guard_limits {
	struct limit source; /* of one source prefix's SYNs */
	struct limit vip;    /* of one VIP's SYNs */
	struct limit node;   /* of all SYNs; and of all other flows that the flow table remembers */
};

/* By VIP id, within an array of one map: limits change as a whole, between two packets. */
BPF_F_TABLE("array", __u32, struct guard_limits, guard_limits_prototype, IDENTIFIERS,
	    BPF_F_MMAPABLE);
BPF_TABLE_PINNED("array_of_maps$guard_limits_prototype", __u32, __u32, guard_limits, 1,
		 PIN(guard_limits));

/*
 * Source prefixes share buckets, two each, found by a keyed hash, and are refused if both are dry:
 * who floods dries his own, and hardly ever both of another (as Feng, Kandlur, Saha and Shin have
 * it of flows: "Stochastic Fair Blue", 2001). There is nothing to evict, so a flood from sources
 * without number costs no more than one from few.
 */
#define SOURCE_BUCKETS_BITS 17
#define SOURCE_BUCKETS (1 << SOURCE_BUCKETS_BITS) /* of each of the two rows; 2 MB in all */
BPF_TABLE_PINNED("array", __u32, __u64, source_buckets, 2 * SOURCE_BUCKETS, PIN(source_buckets),
		 BPF_F_MMAPABLE);

struct bucket {
	__u64 due;
	__u64 reserve_due; /* of the reserve, for retransmissions */
};

BPF_TABLE_PINNED("array", __u32, struct bucket, vip_buckets, IDENTIFIERS, PIN(vip_buckets),
		 BPF_F_MMAPABLE);

enum {
	SYN_BUCKET,
	FLOW_TABLE_BUCKET,
	NODE_BUCKETS,
};

BPF_TABLE_PINNED("array", __u32, struct bucket, node_buckets, NODE_BUCKETS, PIN(node_buckets),
		 BPF_F_MMAPABLE);

/*
 * Flows whose SYN was refused lately. A flood with sources that are made up comes from nobody who
 * would ask again; a real client does, after 1 s, 3 s and 7 s (RFC 6298 section 2), and is then
 * admitted from a reserve.
 */
struct refusal {
	__u32 tag;
	__u32 at; /* in units of 2^20 ns (1.05 ms), CLOCK_MONOTONIC; 0: none */
};

#define REFUSALS_BITS 21
#define REFUSALS (1 << REFUSALS_BITS) /* 16 MB */
#define REFUSAL_TIME_SHIFT 20
#define MS_UNITS(ms) ((__u32)((ms)*1000000ULL >> REFUSAL_TIME_SHIFT))
#define RETRANSMISSION_MIN MS_UNITS(500)
#define RETRANSMISSION_MAX MS_UNITS(10000)
/* So long no other flow takes the place: the first retransmission comes after 1 s. */
#define REFUSAL_KEPT MS_UNITS(1200)
BPF_TABLE_PINNED("array", __u32, struct refusal, refusals, REFUSALS, PIN(refusals), BPF_F_MMAPABLE);

static __always_inline struct guard_limits *find_limits(__u32 vip_id)
{
	__u32 zero = 0;
	void *present = guard_limits.lookup(&zero);

	return present ? bpf_map_lookup_elem(present, &vip_id) : NULL;
}

static __always_inline bool is_dry(const __u64 *due, const struct limit *limit, __u64 now)
{
	return (__s64)(*due - now) > (__s64)limit->tolerance;
}

/* Adding is atomic, so a bucket that all CPUs draw from loses nothing; that two may find it idle at
 * once lets a packet too many pass, after a pause. */
static __always_inline void draw(__u64 *due, const struct limit *limit, __u64 now)
{
	if ((__s64)(*due - now) < 0)
		*due = now;
	__sync_fetch_and_add(due, limit->interval);
}

static __always_inline bool admit(__u64 *due, const struct limit *limit, __u64 now)
{
	if (!limit->interval)
		return true;
	if (is_dry(due, limit, now))
		return false;
	draw(due, limit, now);
	return true;
}

/* The client's /24, or /56. */
static __always_inline __u64 source_prefix(const struct packet *packet)
{
	const __be32 *client = packet->flow.client;

	if (packet->is_ipv6)
		return ((__u64)ntohl(client[0]) << 32 | ntohl(client[1])) >> 8;
	return 1ULL << 63 | ntohl(client[3]) >> 8;
}

static __always_inline bool source_admits(const struct packet *packet, const struct limit *limit,
					  const __u64 key[2], __u64 now)
{
	struct siphash state;
	__u64 hash, *one, *other;
	__u32 index;

	if (!limit->interval)
		return true;
	siphash_begin(&state, key);
	siphash_word(&state, source_prefix(packet));
	hash = siphash_end(&state, 1);
	index = hash & (SOURCE_BUCKETS - 1);
	one = source_buckets.lookup(&index);
	index = SOURCE_BUCKETS + (hash >> 32 & (SOURCE_BUCKETS - 1));
	other = source_buckets.lookup(&index);
	if (!one || !other || (is_dry(one, limit, now) && is_dry(other, limit, now)))
		return false;
	draw(one, limit, now);
	draw(other, limit, now);
	return true;
}

/* Was this flow's SYN refused a while ago? If not, this one's refusal is remembered. */
static __always_inline bool is_retransmission(const struct packet *packet, const __u64 key[2],
					      __u64 now)
{
	const __be32 *client = packet->flow.client, *service = packet->flow.service.address;
	__u32 index, tag, age, at = now >> REFUSAL_TIME_SHIFT;
	struct refusal *refusal;
	struct siphash state;
	__u64 hash;

	siphash_begin(&state, key);
	siphash_word(&state, (__u64)client[0] << 32 | client[1]);
	siphash_word(&state, (__u64)client[2] << 32 | client[3]);
	siphash_word(&state, (__u64)service[0] << 32 | service[1]);
	siphash_word(&state, (__u64)service[2] << 32 | service[3]);
	siphash_word(&state,
		     (__u64)packet->flow.client_port << 32 | packet->flow.service.port | 1 << 16);
	hash = siphash_end(&state, 5);

	index = hash & (REFUSALS - 1);
	tag = hash >> 32;
	refusal = refusals.lookup(&index);
	if (!refusal)
		return false;
	age = at - refusal->at;
	if (refusal->at && refusal->tag == tag && age <= RETRANSMISSION_MAX)
		return age >= RETRANSMISSION_MIN;
	if (!refusal->at || age > REFUSAL_KEPT) {
		refusal->tag = tag;
		refusal->at = at;
	}
	return false;
}

static __always_inline int limit_syn(const struct packet *packet, __u32 vip_id, const __u64 key[2])
{
	struct guard_limits *limits = find_limits(vip_id);
	__u32 syn = SYN_BUCKET;
	struct bucket *vip, *node;
	__u64 now;
	int refusal;

	if (!limits)
		return ADMITTED;
	vip = vip_buckets.lookup(&vip_id);
	node = node_buckets.lookup(&syn);
	if (!vip || !node)
		return ADMITTED;

	now = bpf_ktime_get_ns();
	if (!source_admits(packet, &limits->source, key, now))
		return COUNT_syn_source_limit;
	if (!admit(&vip->due, &limits->vip, now))
		refusal = COUNT_syn_vip_limit;
	else if (!admit(&node->due, &limits->node, now))
		refusal = COUNT_new_flow_limit;
	else
		return ADMITTED;

	/* The reserve is as large as what ran dry. */
	if (!is_retransmission(packet, key, now))
		return refusal;
	if (refusal == COUNT_syn_vip_limit ? !admit(&vip->reserve_due, &limits->vip, now)
					   : !admit(&node->reserve_due, &limits->node, now))
		return refusal;
	count(COUNT_syn_retransmissions);
	return ADMITTED;
}

/* May the flow table remember one more flow? Of those that did not begin with a SYN, which has been
 * asked. Else the row alone is asked, and a flood evicts little. */
static __always_inline bool new_flow_admitted(__u32 vip_id)
{
	struct guard_limits *limits = find_limits(vip_id);
	__u32 flow = FLOW_TABLE_BUCKET;
	struct bucket *node = node_buckets.lookup(&flow);

	if (!limits || !node || admit(&node->due, &limits->node, bpf_ktime_get_ns()))
		return true;
	count(COUNT_flows_not_remembered);
	return false;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The guard: is a packet to a VIP welcome? By the operator's lists, and if it asks for a new flow,
 * by how many there were lately. docs/guard.md is for operators; l4/guard.py feeds the maps.
 */
#ifndef EDGE_GUARD_H
#define EDGE_GUARD_H

#include "guard_limits.h"
#include "guard_lists.h"

/*
 * What was refused, by VIP. As `vip_drops`, which would cost a flood's packet a third more: a
 * look-up by hash, and an allocation at the first. The counters of these reasons are the sums over
 * VIPs, which whoever asks for them draws: l4/vip_counters.py.
 */
#define GUARD_REASONS 4 /* from COUNT_blocked on */
struct vip_refusals {
	__u64 packets[GUARD_REASONS];
};

BPF_TABLE_PINNED("percpu_array", __u32, struct vip_refusals, vip_refusals, IDENTIFIERS,
		 PIN(vip_refusals));

static __always_inline int refuse_from(const struct vip *vip, __u32 counter)
{
	__u32 id = vip->id, reason = counter - COUNT_blocked;
	struct vip_refusals *refusals = vip_refusals.lookup(&id);

	if (refusals && reason < GUARD_REASONS)
		refusals->packets[reason] += 1;
	return because(XDP_DROP, counter, id);
}

/* Of a packet that has no VIP of its own: a ping. */
static __always_inline bool is_blocked(const struct packet *packet,
				       const struct balancer_settings *node)
{
	return (node->flags & (packet->is_ipv6 ? NODE_LISTS_IPV6 : NODE_LISTS_IPV4)) &&
	       find_listing(packet, node) == BLOCKED;
}

/* ADMITTED, or the counter that says why the packet is to be dropped. An established flow without
 * lists costs two comparisons. */
static __always_inline int guard_packet(const struct packet *packet, const struct vip *vip,
					const struct balancer_settings *node)
{
	int listing = UNLISTED;

	if (node->flags & (packet->is_ipv6 ? NODE_LISTS_IPV6 : NODE_LISTS_IPV4))
		listing = find_listing(packet, node);
	if (unlikely(listing == BLOCKED))
		return COUNT_blocked;
	if (unlikely(is_syn(packet)) && listing != ALLOWED)
		return limit_syn(packet, vip->id, node->hash_key);
	return ADMITTED;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow state for VIPs whose members run no redirector: nothing could give their packets a second
 * chance, so a change of the table must not move a flow. VIPs of pools with redirectors never come
 * here.
 */
#ifndef EDGE_FLOW_TABLE_H
#define EDGE_FLOW_TABLE_H

#include "forwarding.h"

#define FLOW_TABLE_ENTRIES 262144 /* about 40 MB; the oldest flows make room for new ones */

struct flow_owner {
	__u16 id; /* of the member */
	__u16 zero;
	__u32 last_seen; /* seconds, CLOCK_MONOTONIC; of UDP, which has no other end than silence */
};

/* Each CPU evicts from a list of its own, and sees the entries of all: a flow that moves to another
 * receive queue keeps its member. */
BPF_TABLE_PINNED("lru_hash", struct flow, struct flow_owner, flow_table, FLOW_TABLE_ENTRIES,
		 PIN(flow_table), BPF_F_NO_COMMON_LRU);

/* Finds where an open flow went before. A flow that is new, forgotten, or whose member is not live
 * has to ask its row. */
static __always_inline void recall_flow(struct packet *packet, struct route *route)
{
	struct member *member;
	struct flow_owner *owner;

	if (is_syn(packet))
		return;
	count(COUNT_flow_table_lookups);
	owner = flow_table.lookup(&packet->flow);
	member = owner ? find_member(owner->id) : NULL;
	if (!member || !(member->flags & MEMBER_LIVE))
		return;
	count(COUNT_flow_table_hits);
	take_owner(owner->id, member, route);
}

static __always_inline void remember_flow(struct packet *packet, const struct route *route)
{
	struct flow_owner owner = {.id = route->owner};

	if (is_syn(packet))
		flow_table.update(&packet->flow, &owner);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The next owner in the chain, and the packet's way there. */
#ifndef EDGE_SECOND_CHANCE_H
#define EDGE_SECOND_CHANCE_H

#include "gue.h"
#include "members.h"
#include "redirector_maps.h"

struct hop {
	__be32 address;
	__u8 after; /* index of the owner after this one */
};

/* The next owner that can be reached; false if the chain is spent. */
static __always_inline bool find_next_hop(const struct gue *gue, struct hop *hop)
{
	struct member *member;

#pragma unroll
	for (int i = 0; i < MAX_HOPS; i++) {
		if (i < gue->next_hop || i >= gue->hop_count)
			continue;
		member = find_member(ntohs(gue->hops[i]));
		if (!member) {
			count(COUNT_member_unknown);
		} else if (!(member->flags & MEMBER_LIVE)) {
			count(COUNT_owner_not_live);
		} else {
			hop->address = member->address[3];
			hop->after = i + 1;
			return true;
		}
	}
	return false;
}

static __always_inline void address_to(struct outer *outer, const struct hop *hop, __be32 source)
{
	outer->ip.saddr = source;
	outer->ip.daddr = hop->address;
	outer->ip.ttl -= 1;
	outer->ip.check = 0;
	outer->ip.check = ipv4_checksum(&outer->ip);
	outer->udp.check = 0; /* one that covered the old addresses would now be wrong */

	outer->gue.next_hop = hop->after;
}

#endif

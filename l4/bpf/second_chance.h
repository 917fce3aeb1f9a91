/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The next owner in the chain, and the packet's way there. */
#ifndef EDGE_SECOND_CHANCE_H
#define EDGE_SECOND_CHANCE_H

#include "gue.h"
#include "members.h"
#include "redirector_maps.h"
#include "tunnel.h"

/*
 * Finds the next owner that can be reached over the outer header's family, and moves the chain's
 * pointer behind it. NULL if the chain is spent.
 */
static __always_inline const struct member *find_next_owner(struct tunnel *tunnel)
{
	struct gue *gue = tunnel->gue;
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
		} else if (!(member->flags & MEMBER_IPV6) != !tunnel->is_ipv6) {
			count(COUNT_owner_of_other_family);
		} else {
			gue->next_hop = i + 1;
			return member;
		}
	}
	return NULL;
}

/*
 * Addresses the packet to another member, one hop older. A UDP checksum that covered the old
 * addresses would now be wrong: none is what balancers send (RFC 768; RFC 6935 over IPv6).
 */
static __always_inline void address_to(struct tunnel *tunnel, const struct member *member,
				       const struct redirector_settings *node)
{
	if (likely(!tunnel->is_ipv6)) {
		struct outer_v4 *outer = tunnel->outer;

		outer->ip.saddr = node->v4;
		outer->ip.daddr = member->address[3];
		outer->ip.ttl -= 1;
		outer->ip.check = 0;
		outer->ip.check = ipv4_checksum(&outer->ip);
		outer->udp.check = 0;
	} else {
		struct outer_v6 *outer = tunnel->outer;

		__builtin_memcpy(&outer->ip.saddr, node->v6, sizeof(outer->ip.saddr));
		__builtin_memcpy(&outer->ip.daddr, member->address, sizeof(outer->ip.daddr));
		outer->ip.hop_limit -= 1;
		outer->udp.check = 0;
	}
}

#endif

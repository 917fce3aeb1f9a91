/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The next owner in the chain, and the packet's way there. */
#ifndef EDGE_SECOND_CHANCE_H
#define EDGE_SECOND_CHANCE_H

#include "gue.h"
#include "members.h"
#include "redirector_maps.h"
#include "tunnel.h"

/* Bounds were checked when the tunnel was opened: the checks here are for the verifier. */
static __always_inline struct gue *find_chain(struct xdp_md *ctx, const struct tunnel *tunnel)
{
	struct gue *gue = (void *)(long)ctx->data + tunnel->chain;

	return (void *)(gue + 1) > (void *)(long)ctx->data_end ? NULL : gue;
}

/*
 * Finds the next owner that can be reached over the outer header's family, and moves the chain's
 * pointer behind it. NULL if the chain is spent.
 */
static __always_inline const struct member *find_next_owner(struct gue *gue, bool over_ipv6)
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
		} else if (!(member->flags & MEMBER_IPV6) != !over_ipv6) {
			count(COUNT_owner_of_other_family);
		} else {
			gue->next_hop = i + 1;
			return member;
		}
	}
	return NULL;
}

/* A UDP checksum that covered the old addresses would now be wrong: none is what balancers send
 * (RFC 768; RFC 6935 over IPv6). */
static __always_inline __u32 address_over_ipv4(struct outer_v4 *outer, const struct member *member,
					       const struct redirector_settings *node)
{
	if (outer->ip.ttl <= 1)
		return COUNT_ttl_expired;
	outer->ip.saddr = node->v4;
	outer->ip.daddr = member->address[3];
	outer->ip.ttl -= 1;
	outer->ip.check = 0;
	outer->ip.check = ipv4_checksum(&outer->ip);
	outer->udp.check = 0;
	return COUNT_second_chance;
}

static __always_inline __u32 address_over_ipv6(struct outer_v6 *outer, const struct member *member,
					       const struct redirector_settings *node)
{
	if (outer->ip.hop_limit <= 1)
		return COUNT_ttl_expired;
	__builtin_memcpy(&outer->ip.saddr, node->v6, sizeof(outer->ip.saddr));
	__builtin_memcpy(&outer->ip.daddr, member->address, sizeof(outer->ip.daddr));
	outer->ip.hop_limit -= 1;
	outer->udp.check = 0;
	return COUNT_second_chance;
}

/*
 * Addresses the packet to its next owner, one hop older. Returns what became of it, as a counter:
 * `second_chance`, `chain_spent`, or `ttl_expired`.
 */
static __always_inline __u32 give_second_chance(struct xdp_md *ctx, const struct tunnel *tunnel,
						const struct redirector_settings *node)
{
	void *end = (void *)(long)ctx->data_end;
	void *outer = (void *)(long)ctx->data + tunnel->outer;
	struct gue *gue = find_chain(ctx, tunnel);
	const struct member *member;
	bool over_ipv6;

	if (!gue || outer + sizeof(struct outer_v4) > end)
		return COUNT_chain_spent;
	over_ipv6 = ((struct iphdr *)outer)->version == 6;
	member = find_next_owner(gue, over_ipv6);
	if (!member)
		return COUNT_chain_spent;
	if (likely(!over_ipv6))
		return address_over_ipv4(outer, member, node);
	if (outer + sizeof(struct outer_v6) > end)
		return COUNT_chain_spent;
	return address_over_ipv6(outer, member, node);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The link header: Ethernet and up to two VLAN tags (IEEE 802.1Q, 802.1ad). Whatever becomes of a
 * frame, its tags stay: one that is sent back must return to the network that it came from, and the
 * kernel hands one that is handed up to the VLAN device of its tag.
 */
#ifndef EDGE_LINK_H
#define EDGE_LINK_H

#include <uapi/linux/if_ether.h>

#include "ethernet.h"
#include "verifier.h"

#define MAX_VLAN_TAGS 2

struct vlan_tag {
	__be16 control; /* priority, drop eligibility, VLAN */
	__be16 type;	/* of what follows */
};

struct link {
	struct ethernet *ethernet;
	void *payload;
	__be16 type; /* of the payload */
	__u8 tags;
};

static __always_inline bool is_vlan(__be16 type)
{
	return type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD);
}

/* False if the frame is too short for its own header. */
static __always_inline bool read_link(void *start, void *end, struct link *link)
{
	struct vlan_tag *tag;

	link->ethernet = start;
	link->payload = link->ethernet + 1;
	link->tags = 0;
	if (link->payload > end)
		return false;
	link->type = link->ethernet->type;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (likely(!is_vlan(link->type)))
			return true;
		tag = link->payload;
		link->payload = tag + 1;
		if (link->payload > end)
			return false;
		link->type = tag->type;
		link->tags++;
	}
	return true;
}

/* Is the frame for the interface with this MAC address? Zero: they are not told apart. */
static __always_inline bool is_for_mac(const struct ethernet *ethernet, const __u16 mac[MAC_UNITS])
{
	return likely(!((mac[0] ^ ethernet->destination[0]) | (mac[1] ^ ethernet->destination[1]) |
			(mac[2] ^ ethernet->destination[2]))) ||
	       !(mac[0] | mac[1] | mac[2]);
}

/* All of a link header but the type at its end, in words: Ethernet and tags make whole ones. */
#define LINK_WORDS(size) (((size) - sizeof(__be16)) / sizeof(__u32))

/* Takes `octets` out of the frame behind its link header of constant `size`. */
static __always_inline int close_up(struct xdp_md *ctx, const __u32 size, __u32 octets, __be16 type)
{
	__u32 words[LINK_WORDS(sizeof(struct ethernet) + MAX_VLAN_TAGS * sizeof(struct vlan_tag))];
	__u32 *header = (void *)(long)ctx->data;

	if ((void *)header + size > (void *)(long)ctx->data_end)
		return -1;
#pragma unroll
	for (int i = 0; i < (int)LINK_WORDS(size); i++)
		words[i] = header[i];
	if (bpf_xdp_adjust_head(ctx, (int)octets))
		return -1;
	header = (void *)(long)ctx->data;
	if ((void *)header + size > (void *)(long)ctx->data_end)
		return -1;
#pragma unroll
	for (int i = 0; i < (int)LINK_WORDS(size); i++)
		header[i] = words[i];
	*(__be16 *)(header + LINK_WORDS(size)) = type;
	return 0;
}

/* Takes `octets` out behind the link header of `size` octets, which then announces `type`. */
static __always_inline int take_out(struct xdp_md *ctx, __u32 size, __u32 octets, __be16 type)
{
	if (likely(size == sizeof(struct ethernet)))
		return close_up(ctx, sizeof(struct ethernet), octets, type);
	if (size == sizeof(struct ethernet) + sizeof(struct vlan_tag))
		return close_up(ctx, sizeof(struct ethernet) + sizeof(struct vlan_tag), octets,
				type);
	return close_up(ctx, sizeof(struct ethernet) + 2 * sizeof(struct vlan_tag), octets, type);
}

#endif

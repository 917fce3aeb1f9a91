/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The way out: which interface a frame leaves by, and between which Ethernet addresses. Either back
 * to the router that sent it, or where the kernel's routes and neighbours say (NODE_FIB). VLAN tags
 * are kept on either way.
 */
#ifndef EDGE_EGRESS_H
#define EDGE_EGRESS_H

#include "balancer_maps.h"
#include "ethernet.h"
#include "gue.h"
#include "link.h"
#include "members.h"
#include "packet.h"

#define ADDRESS_FAMILY_IPV4 2 /* AF_INET */
#define ADDRESS_FAMILY_IPV6 10

struct egress {
	__u32 mtu;	 /* octets of the largest IP packet on this way, all headers included */
	__u32 interface; /* 0: back to the sender, and what follows means nothing */
	__u16 destination[MAC_UNITS];
	__u16 source[MAC_UNITS];
};

enum {
	FOUND = -1, /* other results are counters: why there is no way */
};

static __always_inline int name_refusal(long result)
{
	switch (result) {
	case BPF_FIB_LKUP_RET_BLACKHOLE:
		return COUNT_fib_blackhole;
	case BPF_FIB_LKUP_RET_UNREACHABLE:
		return COUNT_fib_unreachable;
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return COUNT_fib_prohibited;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return COUNT_fib_not_forwarded;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return COUNT_fib_forwarding_disabled;
	case BPF_FIB_LKUP_RET_UNSUPP_LWT:
		return COUNT_fib_unsupported;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return COUNT_fib_no_neighbour;
	default:
		return COUNT_fib_failed;
	}
}

/* Reads what the kernel said. */
static __always_inline int judge_fib(long result, const struct bpf_fib_lookup *fib,
				     struct egress *egress)
{
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		egress->mtu = fib->mtu_result;
		return FOUND; /* too small to be used, but known */
	}
	if (result != BPF_FIB_LKUP_RET_SUCCESS)
		return name_refusal(result);
	egress->mtu = 0xffff; /* the kernel has compared the size with the route's */
	egress->interface = fib->ifindex;
	__builtin_memcpy(egress->destination, fib->dmac, sizeof(fib->dmac));
	__builtin_memcpy(egress->source, fib->smac, sizeof(fib->smac));
	return FOUND;
}

/* Asks the kernel as if the outer packet, of `size` octets, had come in to be routed. */
static __always_inline int ask_fib(struct xdp_md *ctx, const struct packet *packet,
				   const struct balancer_settings *node,
				   const struct member *member, __u8 protocol, __be16 source_port,
				   __u32 size, struct egress *egress)
{
	struct bpf_fib_lookup fib = {};

	fib.l4_protocol = protocol;
	fib.sport = source_port;
	fib.dport = source_port ? htons(GUE_PORT) : 0;
	fib.tot_len = size;
	fib.ifindex = ctx->ingress_ifindex;
	if (member->flags & MEMBER_IPV6) {
		fib.family = ADDRESS_FAMILY_IPV6;
		fib.flowinfo = htonl((packet->traffic_class & DSCP_MASK) << 20);
		__builtin_memcpy(fib.ipv6_src, node->source_v6, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, member->address, sizeof(fib.ipv6_dst));
	} else {
		fib.family = ADDRESS_FAMILY_IPV4;
		fib.tos = packet->traffic_class & DSCP_MASK;
		fib.ipv4_src = node->source_v4;
		fib.ipv4_dst = member->address[3];
	}
	return judge_fib(bpf_fib_lookup(ctx, &fib, sizeof(fib), 0), &fib, egress);
}

/*
 * The frame has grown by `octets` in front. Moves its link header there, back to the sender, tags
 * kept, and lets it announce `type` (0: as before). Returns what stands behind it, or NULL.
 */
static __always_inline void *move_link(struct xdp_md *ctx, __u8 tags, const __u32 octets,
				       __be16 type)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = (void *)(long)ctx->data;
	struct ethernet *arrived = (void *)ethernet + octets;
	struct vlan_tag *tag = (void *)(ethernet + 1), *old = (void *)(arrived + 1);

	/* From front to back, because the two may overlap. */
	if ((void *)(arrived + 1) > end)
		return NULL;
	turn_around(ethernet, arrived);
	if (likely(!tags)) {
		ethernet->type = type ? type : arrived->type;
		return tag;
	}
	ethernet->type = arrived->type;
	if ((void *)(old + 1) > end)
		return NULL;
	if (tags == 1) {
		tag->control = old->control;
		tag->type = type ? type : old->type;
		return tag + 1;
	}
	if ((void *)(old + 2) > end)
		return NULL;
	tag[0] = old[0];
	tag[1].control = old[1].control;
	tag[1].type = type ? type : old[1].type;
	return tag + 2;
}

/* The verdict for a frame whose link header leads back to the sender. */
static __always_inline int leave_by(struct xdp_md *ctx, const struct egress *egress)
{
	struct ethernet *ethernet = (void *)(long)ctx->data;

	if (likely(!egress->interface))
		return XDP_TX;
	if ((void *)(ethernet + 1) > (void *)(long)ctx->data_end)
		return -COUNT_no_room;
	__builtin_memcpy(ethernet->destination, egress->destination, sizeof(egress->destination));
	__builtin_memcpy(ethernet->source, egress->source, sizeof(egress->source));
	if (egress->interface == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(egress->interface, 0);
}

#endif

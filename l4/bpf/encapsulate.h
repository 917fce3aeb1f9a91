/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From an owner to a frame on its way there: GUE or IP in IP, over IPv4 or IPv6, or the owner's
 * Ethernet address. */
#ifndef EDGE_ENCAPSULATE_H
#define EDGE_ENCAPSULATE_H

#include "egress.h"
#include "forwarding.h"
#include "gue.h"
#include "outer_ip.h"

/* Octets that stand before the inner packet on the way to a member. */
static __always_inline __u32 overhead(const struct vip *vip, const struct member *member)
{
	bool is_ipv6 = member->flags & MEMBER_IPV6;

	if (likely(vip->encapsulation == ENCAPSULATE_GUE))
		return is_ipv6 ? sizeof(struct outer_v6) : sizeof(struct outer_v4);
	if (vip->encapsulation == ENCAPSULATE_IPIP)
		return is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	return 0;
}

static __always_inline __be16 gue_source_port(__u64 hash)
{
	return htons(GUE_SOURCE_PORT_BASE | (hash >> 32 & GUE_SOURCE_PORT_MASK));
}

/*
 * Four 16-bit numbers, the first in the lowest bits, in network byte order. Each lane's octets are
 * exchanged.
 */
static __always_inline __be64 order_lanes(__u64 lanes)
{
	const __u64 low_octets = 0x00ff00ff00ff00ffULL;

	return (lanes & low_octets) << 8 | (lanes >> 8 & low_octets);
}

/* 1 if any bit below the highest is, else 0; without a branch. */
static __always_inline __u64 is_set(__u64 bits)
{
	return -bits >> 63;
}

/* The UDP checksum is zero: RFC 768 allows it over IPv4, RFC 6935 for tunnels over IPv6, under what
 * RFC 6936 demands (docs/protocol.md). The inner packet has checksums of its own. */
static __always_inline void write_gue(struct udphdr *udp, const struct packet *packet,
				      const struct balancer_settings *node,
				      const struct route *route, __u64 hash)
{
	struct gue *gue = (void *)(udp + 1);
	__u64 rest = route->rest;

	udp->source = gue_source_port(hash);
	udp->dest = htons(GUE_PORT);
	udp->len = htons(packet->length + sizeof(*udp) + sizeof(*gue));
	udp->check = 0;

	gue->variant_control_hlen = GUE_HLEN;
	gue->protocol = inner_protocol(packet);
	gue->flags = GUE_FLAGS_NONE;
	gue->version = CHAIN_VERSION;
	gue->next_hop = 0;
	gue->hop_count = is_set(rest) + is_set(rest >> OWNER_BITS) + is_set(rest >> 2 * OWNER_BITS);
	gue->reserved = 0;
	*(__be64 *)&gue->l4_node = order_lanes(rest << OWNER_BITS | node->node_id);
}

static __always_inline int encapsulate_over_ipv4(struct xdp_md *ctx, const struct packet *packet,
						 const struct balancer_settings *node,
						 const struct route *route, __u64 hash, __u8 tags,
						 const bool is_gue)
{
	const __u32 octets = is_gue ? sizeof(struct outer_v4) : sizeof(struct iphdr);
	struct iphdr *ip;

	if (bpf_xdp_adjust_head(ctx, -(int)octets))
		return -1;
	ip = move_link(ctx, tags, octets, htons(ETH_P_IP));
	if (!ip || (void *)ip + octets > (void *)(long)ctx->data_end)
		return -1;
	write_outer_ipv4(ip, packet, node, route->member,
			 is_gue ? IPPROTO_UDP : inner_protocol(packet), packet->length + octets);
	if (is_gue)
		write_gue((void *)(ip + 1), packet, node, route, hash);
	return 0;
}

static __always_inline int encapsulate_over_ipv6(struct xdp_md *ctx, const struct packet *packet,
						 const struct balancer_settings *node,
						 const struct route *route, __u64 hash, __u8 tags,
						 const bool is_gue)
{
	const __u32 octets = is_gue ? sizeof(struct outer_v6) : sizeof(struct ipv6hdr);
	struct ipv6hdr *ip;

	if (bpf_xdp_adjust_head(ctx, -(int)octets))
		return -1;
	ip = move_link(ctx, tags, octets, htons(ETH_P_IPV6));
	if (!ip || (void *)ip + octets > (void *)(long)ctx->data_end)
		return -1;
	write_outer_ipv6(ip, packet, node, route->member,
			 is_gue ? IPPROTO_UDP : inner_protocol(packet),
			 packet->length + octets - sizeof(*ip), hash);
	if (is_gue)
		write_gue((void *)(ip + 1), packet, node, route, hash);
	return 0;
}

/* The frame goes to the member as it is: both are in one segment, and the VIP is the member's as
 * well. */
static __always_inline int rewrite_link(struct xdp_md *ctx, const struct packet *packet,
					const struct member *member)
{
	struct ethernet *ethernet = (void *)(long)ctx->data;

	if (!(member->mac[0] | member->mac[1] | member->mac[2]))
		return -COUNT_no_mac;
	if ((void *)(ethernet + 1) > (void *)(long)ctx->data_end)
		return -COUNT_no_room;
	__builtin_memcpy(ethernet->source, ethernet->destination, sizeof(ethernet->source));
	__builtin_memcpy(ethernet->destination, member->mac, sizeof(ethernet->destination));
	return XDP_TX;
}

static __always_inline bool has_source(const struct balancer_settings *node,
				       const struct member *member)
{
	const __be32 *v6 = node->source_v6;

	if (unlikely(member->flags & MEMBER_IPV6))
		return v6[0] | v6[1] | v6[2] | v6[3];
	return node->source_v4;
}

/*
 * Finds the way to the route's member. FOUND, or the counter that says why there is none. A packet
 * that is larger than `egress->mtu` less the overhead does not fit.
 */
static __always_inline int find_egress(struct xdp_md *ctx, const struct packet *packet,
				       const struct balancer_settings *node, const struct vip *vip,
				       const struct route *route, __u64 hash, struct egress *egress)
{
	bool is_gue = vip->encapsulation == ENCAPSULATE_GUE;

	egress->mtu = node->mtu;
	egress->interface = 0;
	if (unlikely(!has_source(node, route->member)) && vip->encapsulation != REWRITE_L2)
		return COUNT_no_source;
	if (likely(!(node->flags & NODE_FIB)) || vip->encapsulation == REWRITE_L2)
		return FOUND;
	return ask_fib(ctx, packet, node, route->member,
		       is_gue ? IPPROTO_UDP : inner_protocol(packet),
		       is_gue ? gue_source_port(hash) : 0,
		       packet->length + overhead(vip, route->member), egress);
}

/* Sends a packet that fits. Returns the verdict, or minus the counter that says what it was dropped
 * for. */
static __always_inline int send_to_owner(struct xdp_md *ctx, const struct packet *packet,
					 const struct balancer_settings *node,
					 const struct vip *vip, const struct route *route,
					 __u64 hash, const struct egress *egress)
{
	bool is_ipv6 = route->member->flags & MEMBER_IPV6;
	__u8 tags = packet->vlan_tags;
	int failed;

	if (likely(vip->encapsulation == ENCAPSULATE_GUE))
		failed = unlikely(is_ipv6)
			     ? encapsulate_over_ipv6(ctx, packet, node, route, hash, tags, true)
			     : encapsulate_over_ipv4(ctx, packet, node, route, hash, tags, true);
	else if (vip->encapsulation == ENCAPSULATE_IPIP)
		failed = is_ipv6
			     ? encapsulate_over_ipv6(ctx, packet, node, route, hash, tags, false)
			     : encapsulate_over_ipv4(ctx, packet, node, route, hash, tags, false);
	else
		return rewrite_link(ctx, packet, route->member);
	return failed ? -COUNT_no_room : leave_by(ctx, egress);
}

/*
 * Most packets: GUE or IP in IP over IPv4, back to the sender, without tags, and they fit. One
 * comparison sends them the short way; all else takes the two steps above.
 */
static __always_inline bool is_usual(const struct packet *packet,
				     const struct balancer_settings *node, const struct vip *vip,
				     const struct member *member)
{
	return !((vip->encapsulation & REWRITE_L2) | (member->flags & MEMBER_IPV6) |
		 (node->flags & NODE_FIB) | packet->vlan_tags) &&
	       packet->length + sizeof(struct outer_v4) <= node->mtu;
}

static __always_inline int send_as_usual(struct xdp_md *ctx, const struct packet *packet,
					 const struct balancer_settings *node,
					 const struct vip *vip, const struct route *route,
					 __u64 hash)
{
	int failed = likely(vip->encapsulation == ENCAPSULATE_GUE)
			 ? encapsulate_over_ipv4(ctx, packet, node, route, hash, 0, true)
			 : encapsulate_over_ipv4(ctx, packet, node, route, hash, 0, false);

	return failed ? -COUNT_no_room : XDP_TX;
}

#endif

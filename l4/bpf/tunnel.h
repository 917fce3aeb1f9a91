/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What may come out of the tunnel: GUE, and IP in IP, over IPv4 and IPv6, with strict checks of
 * everything before the inner packet.
 */
#ifndef EDGE_TUNNEL_H
#define EDGE_TUNNEL_H

#include "gue.h"
#include "link.h"
#include "parse.h"
#include "redirector_maps.h"

/* How opening ended. Any other result is the counter that names what was wrong. */
enum {
	OPENED = -1,
	NOT_TUNNELLED = -2, /* not for a tunnel's end here: for the kernel */
};

/*
 * Where things stand in the frame, as offsets. What kind of tunnel it is follows from these and
 * from the octets there, and that is on purpose: were it told by constants, the verifier would walk
 * through all that follows once for each kind. `place` adds a zero to them that it takes for
 * anything, within the limits of a mask.
 */
struct tunnel {
	__u32 outer;  /* the outer IP header */
	__u32 chain;  /* the GUE header; 0: IP in IP, which has none */
	__u32 inner;  /* the inner packet */
	__be16 type;  /* of the inner packet */
	__u16 length; /* of the inner packet, as the outer headers claim and the frame holds */
};

#define OUTER_OFFSET_MASK 0x1f /* Ethernet and two tags make 22 */
#define INNER_OFFSET_MASK 0x7f /* with IPv6, UDP and GUE behind these, 86 */

static __always_inline __u32 place(__u32 offset, __u32 mask, const struct redirector_settings *node)
{
	return (offset + node->zero) & mask;
}

/* The frame's start anew, of which the verifier then knows no more on one way than on another. */
static __always_inline void *forget_bounds(struct xdp_md *ctx)
{
	asm volatile("" ::: "memory");
	return (void *)(long)ctx->data;
}

static __always_inline bool is_tunnel_source(struct underlay_address *source)
{
	return tunnel_sources.lookup(source) != NULL;
}

/* An IPv6 header may bear such an address, but the one it stands for never sent it. */
static __always_inline bool is_mapped_ipv4(const __be32 address[4])
{
	return !(address[0] | address[1] | (address[2] ^ htonl(0xffff)));
}

/* 0 if nothing of this protocol could be inside. */
static __always_inline __be16 ethertype_of(__u8 protocol)
{
	if (protocol == IPPROTO_IPIP)
		return htons(ETH_P_IP);
	if (protocol == IPPROTO_IPV6)
		return htons(ETH_P_IPV6);
	return 0;
}

static __always_inline bool is_gue_sound(const struct gue *gue)
{
	return gue->variant_control_hlen == GUE_HLEN && gue->flags == GUE_FLAGS_NONE &&
	       gue->version == CHAIN_VERSION && !gue->reserved && gue->hop_count <= MAX_HOPS &&
	       gue->next_hop <= gue->hop_count;
}

/* Is there a tunnel in an IP packet with this protocol, and this payload at `start`? */
static __always_inline bool is_tunnel(__u8 protocol, const void *start, const void *end)
{
	const struct udphdr *udp = start;

	if (likely(protocol == IPPROTO_UDP))
		return (void *)(udp + 1) <= end && udp->dest == htons(GUE_PORT);
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

/* Reads what stands between the outer IP header, which ends at `offset`, and the inner packet. */
static __always_inline int open_payload(void *start, void *end, __u32 offset, __u8 protocol,
					__u16 length, const struct redirector_settings *node,
					struct tunnel *tunnel)
{
	struct udphdr *udp = start;
	struct gue *gue = (void *)(udp + 1);

	if (unlikely(protocol != IPPROTO_UDP)) {
		tunnel->type = ethertype_of(protocol);
		tunnel->chain = place(0, INNER_OFFSET_MASK, node);
		tunnel->inner = place(offset, INNER_OFFSET_MASK, node);
		tunnel->length = length;
		return OPENED;
	}
	if ((void *)(gue + 1) > end || length < sizeof(*udp) + sizeof(*gue) ||
	    ntohs(udp->len) != length)
		return COUNT_malformed_outer;
	tunnel->type = ethertype_of(gue->protocol);
	if (!tunnel->type || !is_gue_sound(gue))
		return COUNT_malformed_gue;
	tunnel->chain = place(offset + sizeof(*udp), INNER_OFFSET_MASK, node);
	tunnel->inner = place(offset + sizeof(*udp) + sizeof(*gue), INNER_OFFSET_MASK, node);
	tunnel->length = length - sizeof(*udp) - sizeof(*gue);
	return OPENED;
}

/* Both lengths are exact, and the frame holds them: our balancers pad nothing but the frame. */
static __always_inline int open_ipv4(struct iphdr *ip, void *end, __u32 offset,
				     const struct redirector_settings *node, struct tunnel *tunnel)
{
	struct underlay_address source;
	__u16 length;

	if ((void *)(ip + 1) > end || ip->daddr != node->v4 || !node->v4 ||
	    ip->ihl != sizeof(*ip) / 4 || (ip->frag_off & htons(IPV4_FRAGMENT_OFFSET)) ||
	    !is_tunnel(ip->protocol, ip + 1, end))
		return NOT_TUNNELLED;
	map_ipv4(source.octets, ip->saddr);
	if (!is_tunnel_source(&source))
		return COUNT_source_refused;
	length = ntohs(ip->tot_len);
	if (ip->version != 4 || (ip->frag_off & htons(IPV4_FRAGMENT)) || length < sizeof(*ip) ||
	    (void *)ip + length > end)
		return COUNT_malformed_outer;
	return open_payload(ip + 1, end, offset + sizeof(*ip), ip->protocol, length - sizeof(*ip),
			    node, tunnel);
}

static __always_inline int open_ipv6(struct ipv6hdr *ip, void *end, __u32 offset,
				     const struct redirector_settings *node, struct tunnel *tunnel)
{
	struct underlay_address source;
	__u16 length;

	if ((void *)(ip + 1) > end || !(node->v6[0] | node->v6[1] | node->v6[2] | node->v6[3]) ||
	    !is_same_address(ip->daddr.in6_u.u6_addr32, node->v6) ||
	    !is_tunnel(ip->nexthdr, ip + 1, end))
		return NOT_TUNNELLED;
	__builtin_memcpy(source.octets, &ip->saddr, sizeof(source.octets));
	if (is_mapped_ipv4(source.octets) || !is_tunnel_source(&source))
		return COUNT_source_refused;
	length = ntohs(ip->payload_len);
	if (ip->version != 6 || length > 0xffff - sizeof(*ip) || (void *)(ip + 1) + length > end)
		return COUNT_malformed_outer;
	return open_payload(ip + 1, end, offset + sizeof(*ip), ip->nexthdr, length, node, tunnel);
}

static __always_inline int open_tunnel(const struct link *link, void *end,
				       const struct redirector_settings *node,
				       struct tunnel *tunnel)
{
	__u32 offset = sizeof(struct ethernet) + link->tags * sizeof(struct vlan_tag);

	tunnel->outer = place(offset, OUTER_OFFSET_MASK, node);
	if (likely(link->type == htons(ETH_P_IP)))
		return open_ipv4(link->payload, end, offset, node, tunnel);
	if (link->type == htons(ETH_P_IPV6))
		return open_ipv6(link->payload, end, offset, node, tunnel);
	return NOT_TUNNELLED;
}

#endif

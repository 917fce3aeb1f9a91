/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What may come out of the tunnel: strict checks of everything before the inner packet. */
#ifndef EDGE_TUNNEL_H
#define EDGE_TUNNEL_H

#include "ethernet.h"
#include "gue.h"
#include "parse.h"
#include "redirector_maps.h"

/* Is this an encapsulated packet for this host? Bounds are checked as far as the UDP header. */
static __always_inline bool is_for_tunnel(const struct outer *outer, const void *end,
					  __be32 address)
{
	return (void *)(&outer->udp + 1) <= end && outer->ip.protocol == IPPROTO_UDP &&
	       outer->ip.ihl == sizeof(outer->ip) / 4 && outer->ip.daddr == address &&
	       outer->udp.dest == htons(GUE_PORT) &&
	       !(outer->ip.frag_off & htons(IPV4_FRAGMENT_OFFSET));
}

static __always_inline bool is_tunnel_source(__be32 address)
{
	struct underlay_address source;

	map_ipv4(source.octets, address);
	return tunnel_sources.lookup(&source) != NULL;
}

/* Both lengths are exact, and the frame holds them: our balancers pad nothing. */
static __always_inline bool is_outer_sound(const struct outer *outer, const void *end)
{
	__u16 length = ntohs(outer->ip.tot_len);

	return outer->ip.version == 4 && !(outer->ip.frag_off & htons(IPV4_FRAGMENT)) &&
	       (void *)(outer + 1) <= end && length >= ENCAPSULATION &&
	       (void *)&outer->ip + length <= end &&
	       ntohs(outer->udp.len) == length - sizeof(outer->ip);
}

static __always_inline bool is_gue_sound(const struct gue *gue)
{
	return gue->variant_control_hlen == GUE_HLEN && gue->flags == GUE_FLAGS_NONE &&
	       gue->version == CHAIN_VERSION && !gue->reserved && gue->hop_count <= MAX_HOPS &&
	       gue->next_hop <= gue->hop_count;
}

/* 0 if the header names no protocol that could be inside. */
static __always_inline __be16 inner_ethertype(const struct gue *gue)
{
	if (gue->protocol == IPPROTO_IPIP)
		return htons(ETH_P_IP);
	if (gue->protocol == IPPROTO_IPV6)
		return htons(ETH_P_IPV6);
	return 0;
}

/* Takes the encapsulation off. */
static __always_inline int decapsulate(struct xdp_md *ctx, __be16 ethertype)
{
	struct ethernet *arrived = (void *)(long)ctx->data, *inner, copy;

	if ((void *)(arrived + 1) > (void *)(long)ctx->data_end)
		return -1;
	copy = *arrived;
	if (bpf_xdp_adjust_head(ctx, (int)ENCAPSULATION))
		return -1;
	inner = (void *)(long)ctx->data;
	if ((void *)(inner + 1) > (void *)(long)ctx->data_end)
		return -1;
	copy.type = ethertype;
	*inner = copy;
	return 0;
}

#endif

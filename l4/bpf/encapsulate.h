/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Puts a packet into GUE, on its way back to the router that sent it. */
#ifndef EDGE_ENCAPSULATE_H
#define EDGE_ENCAPSULATE_H

#include "ethernet.h"
#include "forwarding.h"
#include "gue.h"

static __always_inline void write_gue(struct gue *gue, const struct packet *packet, __u16 node_id,
				      __u64 rest)
{
	gue->variant_control_hlen = GUE_HLEN;
	gue->protocol = packet->is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	gue->flags = GUE_FLAGS_NONE;
	gue->version = CHAIN_VERSION;
	gue->next_hop = 0;
	gue->hop_count = !!(__u16)rest + !!(__u16)(rest >> 16) + !!(__u16)(rest >> 32);
	gue->reserved = 0;
	gue->l4_node = htons(node_id);
	gue->hops[0] = htons((__u16)rest);
	gue->hops[1] = htons((__u16)(rest >> 16));
	gue->hops[2] = htons((__u16)(rest >> 32));
}

/*
 * Fills in everything before the inner packet. The UDP checksum is zero, as RFC 768 allows over
 * IPv4: the inner packet has its own. DSCP is copied and ECN is not (RFC 6040's compatibility
 * mode), since nothing would carry a mark back into the inner packet.
 */
static __always_inline void write_outer(struct outer_v4 *outer, const struct packet *packet,
					const struct balancer_settings *settings,
					const struct route *route, __u64 hash)
{
	__u16 length = packet->length + ENCAPSULATION;

	outer->ip.version = 4;
	outer->ip.ihl = sizeof(outer->ip) / 4;
	outer->ip.tos = packet->traffic_class & DSCP_MASK;
	outer->ip.tot_len = htons(length);
	outer->ip.id = 0; /* atomic datagrams need none (RFC 6864) */
	outer->ip.frag_off = htons(IPV4_DONT_FRAGMENT);
	outer->ip.ttl = OUTER_TTL;
	outer->ip.protocol = IPPROTO_UDP;
	outer->ip.check = 0;
	outer->ip.saddr = settings->source_v4;
	outer->ip.daddr = route->member->address[3];
	outer->ip.check = ipv4_checksum(&outer->ip);

	outer->udp.source = htons(GUE_SOURCE_PORT_BASE | (hash >> 32 & GUE_SOURCE_PORT_MASK));
	outer->udp.dest = htons(GUE_PORT);
	outer->udp.len = htons(length - sizeof(outer->ip));
	outer->udp.check = 0;

	write_gue(&outer->gue, packet, settings->node_id, route->rest);
}

static __always_inline int encapsulate(struct xdp_md *ctx, const struct packet *packet,
				       const struct balancer_settings *settings,
				       const struct route *route, __u64 hash)
{
	struct ethernet *ethernet;
	struct outer_v4 *outer;

	if (bpf_xdp_adjust_head(ctx, -(int)ENCAPSULATION))
		return -1;
	ethernet = (void *)(long)ctx->data;
	outer = (void *)(ethernet + 1);
	if ((void *)(outer + 1) > (void *)(long)ctx->data_end)
		return -1;

	/* Before the outer headers are written over the addresses that the frame arrived with. */
	turn_around(ethernet, (void *)ethernet + ENCAPSULATION);
	ethernet->type = htons(ETH_P_IP);
	write_outer(outer, packet, settings, route, hash);
	return 0;
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The redirector, on a proxy's host: takes encapsulated packets in, keeps those whose flow is here,
 * and gives the others their second chance with the next owner. Loaded by l4/redirector_program.py,
 * which defines the pins.
 */
#include <uapi/linux/bpf.h>

#include "ethernet.h"
#include "members.h"
#include "parse.h"
#include "redirector_maps.h"
#include "second_chance.h"
#include "sockets.h"
#include "tunnel.h"

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return XDP_DROP;
}

static __always_inline int keep(struct xdp_md *ctx, __be16 ethertype, __u32 counter)
{
	if (decapsulate(ctx, ethertype))
		return drop(COUNT_no_room);
	count(counter);
	return XDP_PASS;
}

int edge_redirector(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = (void *)(long)ctx->data;
	struct outer *outer = (void *)(ethernet + 1);
	struct redirector_settings *node;
	struct packet packet = {};
	enum ownership ownership;
	struct hop hop = {};
	__u32 zero = 0;
	__be16 inner;
	int result;

	/* 1. An encapsulated packet for this host? All else is the kernel's. */
	if ((void *)(ethernet + 1) > end || ethernet->type != htons(ETH_P_IP))
		return XDP_PASS;
	node = settings.lookup(&zero);
	if (!node || !node->v4 || !is_for_tunnel(outer, end, node->v4))
		return XDP_PASS;

	/* 2. From one of us, and sound? */
	if (!is_tunnel_source(outer->ip.saddr))
		return drop(COUNT_source_refused);
	if (!is_outer_sound(outer, end) || (void *)(outer + 1) > end)
		return drop(COUNT_malformed_outer);
	inner = inner_ethertype(&outer->gue);
	if (!inner || !is_gue_sound(&outer->gue))
		return drop(COUNT_malformed_gue);

	/* 3. Parse the inner packet, which must fill the outer one. */
	result = parse_ip(outer + 1, end, inner, &packet);
	if (result == NOT_IP)
		return drop(COUNT_truncated);
	if (result != PARSED)
		return drop(result);
	if (packet.length + ENCAPSULATION != ntohs(outer->ip.tot_len))
		return drop(COUNT_bad_ip_length);

	if (packet.is_icmp_error)
		count(COUNT_icmp_errors);

	/* 4. A new flow belongs here: this is the row's first live owner. */
	if (is_syn(&packet)) {
		record_ingress(&packet.flow, ntohs(outer->gue.l4_node));
		return keep(ctx, inner, COUNT_local_syn);
	}

	/* 5. An open flow belongs where its socket is. */
	ownership = find_ownership(ctx, &packet);
	if (ownership == OUR_SOCKET)
		return keep(ctx, inner, COUNT_local_socket);
	if (ownership == OUR_COOKIE)
		return keep(ctx, inner, COUNT_local_syncookie);

	/* 6. Not here: the next owner. Nobody left: here, so that the kernel's RST tells the client
	 * at once. */
	if (!find_next_hop(&outer->gue, &hop))
		return keep(ctx, inner, COUNT_chain_spent);
	if (outer->ip.ttl <= 1)
		return drop(COUNT_ttl_expired);
	turn_around(ethernet, ethernet);
	address_to(outer, &hop, node->v4);
	count(COUNT_second_chance);
	return XDP_TX;
}

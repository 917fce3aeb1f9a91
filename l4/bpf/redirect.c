// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The redirector, on a proxy's host: takes encapsulated packets in, keeps those whose flow is here,
 * and gives the others their second chance with the next owner. Loaded by l4/redirector_program.py,
 * which defines the pins.
 */
#include <uapi/linux/bpf.h>

#include "ethernet.h"
#include "link.h"
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

/* Hands the inner packet up. */
static __always_inline int keep(struct xdp_md *ctx, const struct tunnel *tunnel, __u32 counter)
{
	if (take_out(ctx, tunnel->outer, tunnel->inner - tunnel->outer, tunnel->type))
		return drop(COUNT_no_room);
	count(counter);
	return XDP_PASS;
}

/* Does the inner packet come from an L4 node's own address? */
static __always_inline bool is_probe(const struct packet *packet)
{
	struct underlay_address client;
	__u32 *source;

	__builtin_memcpy(client.octets, packet->flow.client, sizeof(client.octets));
	source = tunnel_sources.lookup(&client);
	return source && *source == SOURCE_L4_NODE;
}

static __always_inline __u16 l4_node(struct xdp_md *ctx, const struct tunnel *tunnel)
{
	const struct gue *gue = find_chain(ctx, tunnel);

	return tunnel->chain && gue ? ntohs(gue->l4_node) : 0;
}

/* Why a packet stays here that no TCP socket can be asked about. */
static __always_inline __u32 reason_without_socket(const struct packet *packet)
{
	if (packet->is_echo)
		return COUNT_local_echo;
	return packet->is_fragment ? COUNT_local_fragment : COUNT_local_udp;
}

/* Why the packet stays here; 0 if it does not. */
static __always_inline __u32 reason_to_keep(struct xdp_md *ctx, struct packet *packet,
					    const struct tunnel *tunnel)
{
	if (unlikely(packet->flow.service.protocol != IPPROTO_TCP || packet->is_fragment))
		return reason_without_socket(packet);

	/* A new flow: this is its row's first live owner. Or only an L4 node that asks. */
	if (unlikely(packet->tcp && is_syn(packet))) {
		if (is_probe(packet))
			return COUNT_local_probe;
		record_syn(&packet->flow, packet->tcp->seq, l4_node(ctx, tunnel));
		return COUNT_local_syn;
	}

	/* Without a chain there is nowhere else to go. */
	if (unlikely(!tunnel->chain))
		return COUNT_local_ipip;

	/* Whose an open flow is, the sockets tell. */
	switch (find_ownership(ctx, packet)) {
	case OUR_SOCKET:
		return COUNT_local_socket;
	case OUR_HANDSHAKE:
		record_handshake(&packet->flow, l4_node(ctx, tunnel));
		return COUNT_local_socket;
	case OUR_COOKIE:
		record_handshake(&packet->flow, l4_node(ctx, tunnel));
		return COUNT_local_syncookie;
	default:
		return 0;
	}
}

int edge_redirector(struct xdp_md *ctx)
{
	void *start = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct redirector_settings *node;
	struct packet packet = {};
	struct tunnel tunnel;
	struct link link;
	__u32 zero = 0, reason;
	int result;

	/* 1. For this host? All else is the kernel's. */
	node = settings.lookup(&zero);
	if (!node || !read_link(start, end, &link) || !is_for_mac(link.ethernet, node->mac))
		return XDP_PASS;

	/* 2. In a tunnel, from one of us, and sound? */
	result = open_tunnel(&link, end, node, &tunnel);
	if (result == NOT_TUNNELLED)
		return XDP_PASS;
	if (result != OPENED)
		return drop(result);

	/* 3. Parse the inner packet, which must fill the outer one. */
	start = forget_bounds(ctx);
	result = parse_ip(start + tunnel.inner, end, tunnel.type, &packet);
	if (result == NOT_IP)
		return drop(COUNT_truncated);
	if (result != PARSED)
		return drop(result);
	if (packet.length != tunnel.length)
		return drop(COUNT_bad_ip_length);

	if (unlikely(packet.is_icmp_error))
		count(COUNT_icmp_errors);

	/* 4. Is its flow here? */
	reason = reason_to_keep(ctx, &packet, &tunnel);
	if (reason)
		return keep(ctx, &tunnel, reason);

	/* 5. Not here: the next owner. Nobody left: here, so that the kernel's RST tells the client
	 * at once. */
	reason = give_second_chance(ctx, &tunnel, node);
	if (reason == COUNT_chain_spent)
		return keep(ctx, &tunnel, reason);
	if (reason != COUNT_second_chance || start + sizeof(struct ethernet) > end)
		return drop(reason);
	turn_around(start, start);
	count(reason);
	return XDP_TX;
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The balancer, on an L4 node: brings each packet to the proxy that owns its flow, with the earlier
 * owners in its luggage, and keeps no state of its own. Loaded by l4/balancer_program.py, which
 * defines ROWS, MAX_VIPS and the pins.
 */
#include <uapi/linux/bpf.h>

#include "balancer_maps.h"
#include "encapsulate.h"
#include "ethernet.h"
#include "flow_table.h"
#include "forwarding.h"
#include "parse.h"

/* A packet without a readable flow. Only what was meant for a VIP is judged; all else is the
 * kernel's. */
static __always_inline int refuse(struct packet *packet, int result)
{
	if (result == NOT_IP || !is_vip_address(&packet->flow.service))
		return XDP_PASS;
	count(result);
	return result == COUNT_other_protocol || result == COUNT_ipv6_extension ? XDP_PASS
										: XDP_DROP;
}

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return XDP_DROP;
}

int edge_balancer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = data;
	struct balancer_settings *node;
	struct packet packet = {};
	struct route route = {};
	struct vip *vip;
	__u64 *row, hash;
	int result;

	/* 1. Parse. */
	if ((void *)(ethernet + 1) > end)
		return XDP_PASS;
	result = parse_ip(ethernet + 1, end, ethernet->type, &packet);
	if (result != PARSED)
		return refuse(&packet, result);

	/* 2. Is it for a VIP? */
	vip = vips.lookup(&packet.flow.service);
	if (!vip)
		return XDP_PASS;

	if (packet.is_icmp_error)
		count(COUNT_icmp_errors);

	/* 3. Hash. */
	node = find_settings();
	if (!node)
		return drop(COUNT_no_settings);
	hash = hash_flow(&packet.flow, packet.is_ipv6, node->hash_key);

	/* 4. Owner: by the flow table if there is no second chance, else by the row alone. */
	if (vip->flags & VIP_FLOW_TABLE)
		recall_flow(&packet, &route);
	if (!route.member) {
		row = find_row(vip->slot, hash);
		if (!row)
			return drop(COUNT_no_table);
		if (!*row)
			return drop(COUNT_empty_chain);
		choose_owner(*row, &route);
		if (!route.member)
			return XDP_DROP; /* each owner was counted as unknown */
		if (vip->flags & VIP_FLOW_TABLE)
			remember_flow(&packet, &route);
	}

	/* 5. Does it fit? */
	if (packet.length + ENCAPSULATION > node->mtu)
		return drop(COUNT_packet_too_big);

	/* 6. Encapsulate, count, send. */
	if (encapsulate(ctx, &packet, node, &route, hash))
		return drop(COUNT_no_room);
	count_forwarded(vip->id, packet.length, route.owner);
	return XDP_TX;
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The balancer, on an L4 node: brings each packet to the proxy that owns its flow, with the earlier
 * owners in its luggage, and keeps no state of its own, but for flows that no redirector could find
 * again. Loaded by l4/balancer_program.py, which defines the pins, ROWS and MAX_VIPS.
 */
#include <uapi/linux/bpf.h>

#include "balancer_maps.h"
#include "encapsulate.h"
#include "echo.h"
#include "flow_table.h"
#include "forwarding.h"
#include "guard.h"
#include "link.h"
#include "parse.h"
#include "quic.h"
#include "tap.h"
#include "too_big.h"
#include "vips.h"

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return because(XDP_DROP, counter, 0);
}

/* A packet without a readable flow. Only what was meant for a VIP is judged; all else is the
 * kernel's. */
static __always_inline int refuse(const struct packet *packet, int result)
{
	if (result == NOT_IP || !is_vip_address(&packet->flow.service))
		return XDP_PASS;
	count(result);
	return because(result == COUNT_other_protocol ? XDP_PASS : XDP_DROP, result, 0);
}

/* A sound packet that is for no VIP. Of fragments, that is known only if their address is none. */
static __always_inline int leave(const struct packet *packet)
{
	if (unlikely(packet->is_fragment) && is_vip_address(&packet->flow.service))
		return drop(COUNT_fragment);
	return XDP_PASS;
}

/*
 * TCP fragments of flows that have ports in their hash: theirs has none, so the owner of their row
 * is another than their flow's. Its redirector could not tell that the flow is elsewhere, and its
 * kernel's RST would end it (docs/adr/0007-tcp-fragments.md).
 */
static __always_inline bool is_lost_fragment(const struct packet *packet, const struct vip *vip)
{
	return packet->is_fragment && packet->flow.service.protocol == IPPROTO_TCP &&
	       !(vip->flags & (VIP_FLOW_TABLE | VIP_HASH_SOURCE));
}

static __always_inline int find_route_by_row(const struct vip *vip, __u64 hash, struct route *route)
{
	__u64 *row = find_row(vip->slot, hash);

	if (!row)
		return COUNT_no_table;
	if (!*row)
		return COUNT_empty_chain;
	choose_owner(*row, route);
	return route->member ? ROUTED : COUNT_no_owner;
}

/* Where packets of some VIPs go whatever their row says. */
static __always_inline void find_known_route(const struct packet *packet, const void *end,
					     const struct vip *vip, struct route *route)
{
	if ((vip->flags & VIP_QUIC) && packet->udp)
		follow_server_id(packet, end, vip, route);
	if (!route->member && (vip->flags & VIP_FLOW_TABLE))
		recall_flow(packet, route);
}

/* A known route in IPv4 has no use for the hash: no port and no flow label is drawn from it. */
static __always_inline bool is_hash_needed(const struct vip *vip, const struct route *route,
					   const struct balancer_settings *node)
{
	return !route->member || vip->encapsulation == ENCAPSULATE_GUE ||
	       (route->member->flags & MEMBER_IPV6) || is_tapped(node);
}

static __always_inline __u64 hash_packet(const struct packet *packet, const struct vip *vip,
					 const struct balancer_settings *node)
{
	if (unlikely(vip->flags & VIP_HASH_SOURCE))
		return hash_source(&packet->flow, packet->is_ipv6, node->hash_key);
	return hash_flow(&packet->flow, packet->is_ipv6, node->hash_key);
}

/* What a VIP with flags of its own does otherwise than most. */
static __always_inline int find_special_route(const struct packet *packet, const void *end,
					      const struct vip *vip,
					      const struct balancer_settings *node, __u64 *hash,
					      struct route *route)
{
	int result;

	find_known_route(packet, end, vip, route);
	if (is_hash_needed(vip, route, node))
		*hash = hash_packet(packet, vip, node);
	if (route->member)
		return ROUTED;
	result = find_route_by_row(vip, *hash, route);
	if (result == ROUTED && (vip->flags & VIP_FLOW_TABLE))
		remember_flow(packet, vip, route);
	return result;
}

static __always_inline int answer_ping(struct xdp_md *ctx, const struct packet *packet,
				       const struct balancer_settings *node)
{
	if (!is_vip_address(&packet->flow.service))
		return XDP_PASS;
	if (node && is_blocked(packet, node))
		return drop(COUNT_blocked);
	return answer_echo(ctx, packet);
}

/* One way for frames with one tag and with two: they differ in nothing else. */
static __always_inline void read_tags(struct link *link, struct packet *packet)
{
	if (likely(!link->tags))
		return;
	packet->vlan_tags = forget(link->tags, link->ethernet, 3);
	link->payload = (void *)(link->ethernet + 1) + packet->vlan_tags * sizeof(struct vlan_tag);
}

/* The verdict, and what is to be told of it (outcome.h). `settings` are set as far as they matter.
 */
static __always_inline int balance(struct xdp_md *ctx, struct balancer_settings **settings)
{
	void *end = (void *)(long)ctx->data_end;
	struct balancer_settings *node;
	struct packet packet = {};
	struct egress egress = {};
	struct route route = {};
	struct link link;
	struct vip *vip;
	__u64 hash = 0;
	int result;

	/* 1. Parse what is addressed to this node. */
	*settings = node = find_settings();
	if (!read_link((void *)(long)ctx->data, end, &link) ||
	    (node && !is_for_mac(link.ethernet, node->mac)))
		return XDP_PASS;
	read_tags(&link, &packet);
	result = parse_ip(link.payload, end, link.type, &packet);
	if (unlikely(result != PARSED))
		return refuse(&packet, result);

	/* 2. Which VIP is it for? */
	if (unlikely(packet.is_echo))
		return answer_ping(ctx, &packet, node);
	vip = find_vip(&packet);
	if (!vip)
		return leave(&packet);
	if (unlikely(!node))
		return drop_from(vip, COUNT_no_settings);
	if (unlikely(packet.is_icmp_error))
		count(COUNT_icmp_errors);

	/* 3. Is it welcome? */
	result = guard_packet(&packet, vip, node);
	if (unlikely(result != ADMITTED))
		return refuse_from(vip, result);

	/* 4. Route: hash, and owner of the row; or what the VIP's flags say. */
	if (unlikely(is_lost_fragment(&packet, vip)))
		return drop_from(vip, COUNT_fragment);
	if (likely(!vip->flags)) {
		hash = hash_flow(&packet.flow, packet.is_ipv6, node->hash_key);
		result = find_route_by_row(vip, hash, &route);
	} else {
		result = find_special_route(&packet, end, vip, node, &hash, &route);
	}
	if (unlikely(result != ROUTED))
		return drop_from(vip, result);

	/* 5. The way out. Does it fit? 6. Encapsulate. */
	if (likely(is_usual(&packet, node, vip, route.member))) {
		result = send_as_usual(ctx, &packet, node, vip, &route, hash);
	} else {
		result = find_egress(ctx, &packet, node, vip, &route, hash, &egress);
		if (unlikely(result != FOUND))
			return drop_from(vip, result);
		if (unlikely(packet.length + overhead(vip, route.member) > egress.mtu)) {
			drop_from(vip, COUNT_packet_too_big);
			return answer_too_big(ctx, &packet, vip->id,
					      egress.mtu - overhead(vip, route.member));
		}
		result = send_to_owner(ctx, &packet, node, vip, &route, hash, &egress);
	}
	if (unlikely(result < 0))
		return drop_from(vip, -result);

	/* 7. Count, and send. */
	count_forwarded(vip->id, packet.length, route.owner);
	if (unlikely(is_tapped(node)))
		show_forwarded(ctx, result, vip, &route, hash);
	return result;
}

int edge_balancer(struct xdp_md *ctx)
{
	struct balancer_settings *node = NULL;
	int outcome = balance(ctx, &node);

	if (unlikely(has_reason(outcome)) && node && is_tapped(node))
		show_outcome(ctx, outcome);
	return verdict_of(outcome);
}

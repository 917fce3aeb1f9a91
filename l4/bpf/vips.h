/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which VIP is a packet for? One look-up tells of VIPs of one address and one port. Blocks of
 * addresses, ranges of ports and fragments take two more, longest prefix first: from the address to
 * its set of ports, and from protocol and port to the VIP. l4/vip_sets.py fills them.
 */
#ifndef EDGE_VIPS_H
#define EDGE_VIPS_H

#include "balancer_maps.h"
#include "packet.h"

#define ADDRESS_BITS 128
#define PORT_BITS 64 /* of set, protocol, portless and port */

/* NULL if no VIP has this address. */
static __always_inline __u32 *find_port_set(const struct service *service)
{
	struct vip_prefix prefix = {.length = ADDRESS_BITS};

	__builtin_memcpy(prefix.address, service->address, sizeof(prefix.address));
	return vip_prefixes.lookup(&prefix);
}

static __always_inline bool is_vip_address(const struct service *service)
{
	return find_port_set(service) != NULL;
}

static __always_inline struct vip *find_vip_in_set(__u32 set, const struct packet *packet)
{
	struct vip_port port = {
	    .length = PORT_BITS,
	    .set = set,
	    .protocol = packet->flow.service.protocol,
	    .portless = packet->is_fragment,
	    .port = packet->flow.service.port,
	};

	return vip_ports.lookup(&port);
}

/* NULL if the packet is for no VIP; a fragment may then still be for a VIP's address. The key is a
 * copy, so that the packet itself can be kept in registers. */
static __always_inline struct vip *find_vip(const struct packet *packet)
{
	struct service service = packet->flow.service;
	struct vip *vip = vips.lookup(&service);
	__u32 *set;

	if (likely(vip))
		return vip;
	set = find_port_set(&packet->flow.service);
	return set ? find_vip_in_set(*set, packet) : NULL;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which VIP is a packet for? One look-up tells of VIPs of one address and one port: in an index
 * of most of them, or by their hash. Blocks of
 * addresses, ranges of ports and fragments take two more, longest prefix first: from the address to
 * its set of ports, and from protocol and port to the VIP. l4/vip_sets.py fills them.
 */
#ifndef EDGE_VIPS_H
#define EDGE_VIPS_H

#include "balancer_maps.h"
#include "packet.h"

#define ADDRESS_BITS 128
#define PORT_BITS 64 /* of set, protocol, portless and port */

/* Odd numbers without a pattern, of SplitMix64 and xxHash. l4/vip_index_table.py has the same. */
#define INDEX_LOW 0x9e3779b97f4a7c15ULL
#define INDEX_HIGH 0xbf58476d1ce4e5b9ULL
#define INDEX_PORT 0xc2b2ae3d27d4eb4fULL

/* Where the VIP stands in the index if it does. A multilinear hash (Lemire and Kaser, "Strongly
 * universal string hashing is fast", 2014); the operator chooses what is in it, nobody else. */
static __always_inline __u32 place_in_index(const struct service *service)
{
	const __be32 *address = service->address;
	__u64 low = pair(address[0], address[1]), high = pair(address[2], address[3]);

	return (low * INDEX_LOW + high * INDEX_HIGH + protocol_and_port(service) * INDEX_PORT) >>
	       (64 - VIP_INDEX_BITS);
}

static __always_inline struct vip *find_indexed_vip(const struct service *service)
{
	__u32 zero = 0, place = place_in_index(service);
	void *index = vip_index.lookup(&zero);
	struct indexed_vip *found = index ? bpf_map_lookup_elem(index, &place) : NULL;

	if (likely(found && is_same_address(found->service.address, service->address) &&
		   protocol_and_port(&found->service) == protocol_and_port(service)))
		return &found->vip;
	return NULL;
}

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
	struct vip *vip = find_indexed_vip(&packet->flow.service);
	struct service service;
	__u32 *set;

	if (likely(vip))
		return vip;
	service = packet->flow.service;
	vip = vips.lookup(&service);
	if (vip)
		return vip;
	set = find_port_set(&packet->flow.service);
	return set ? find_vip_in_set(*set, packet) : NULL;
}

#endif

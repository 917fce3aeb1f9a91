/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The outer IP header, of either family. DSCP is copied from the inner packet and ECN is not (RFC
 * 6040's compatibility mode), since nothing would carry a mark back into the inner packet. The
 * source is the node's own address: redirectors take nothing from strangers.
 */
#ifndef EDGE_OUTER_IP_H
#define EDGE_OUTER_IP_H

#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

#include "balancer_maps.h"
#include "checksum.h"
#include "gue.h"
#include "members.h"
#include "packet.h"

#define IPV6_FLOW_LABEL 0xfffff

/* The protocol that announces the inner packet, in GUE's header as in IP's. */
static __always_inline __u8 inner_protocol(const struct packet *packet)
{
	return packet->is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
}

/*
 * `size` is that of the whole packet. In words, so that the checksum is reckoned in registers.
 * Identification is 0, as atomic datagrams need none (RFC 6864).
 */
static __always_inline void write_outer_ipv4(struct iphdr *ip, const struct packet *packet,
					     const struct balancer_settings *node,
					     const struct member *member, __u8 protocol, __u16 size)
{
	__u32 tos = packet->traffic_class & DSCP_MASK;
	__be32 first = htonl(4U << 28 | sizeof(*ip) / 4 << 24 | tos << 16 | size);
	__be32 second = htonl(IPV4_DONT_FRAGMENT);
	__be32 third = htonl(OUTER_TTL << 24 | protocol << 16);
	__be32 *words = (__be32 *)ip;
	__be32 source = node->source_v4;
	__be32 destination = member->address[3];

	words[0] = first;
	words[1] = second;
	words[2] = third;
	words[3] = source;
	words[4] = destination;
	ip->check = fold_checksum((__u64)first + second + third + source + destination);
}

/* `payload` is the size of what follows. The flow label spreads flows over paths (RFC 6438); it is
 * never 0, which would mean that there is none (RFC 6437). */
static __always_inline void write_outer_ipv6(struct ipv6hdr *ip, const struct packet *packet,
					     const struct balancer_settings *node,
					     const struct member *member, __u8 protocol,
					     __u16 payload, __u64 hash)
{
	__u32 traffic_class = packet->traffic_class & DSCP_MASK;
	__u32 label = hash >> 32 & IPV6_FLOW_LABEL;
	__be32 *words = (__be32 *)ip;

	label += !label;
	words[0] = htonl(6U << 28 | traffic_class << 20 | label);
	words[1] = htonl((__u32)payload << 16 | protocol << 8 | OUTER_TTL);
	__builtin_memcpy(&ip->saddr, node->source_v6, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, member->address, sizeof(ip->daddr));
}

#endif

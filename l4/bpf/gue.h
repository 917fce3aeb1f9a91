/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The encapsulation: IPv4, UDP, and generic UDP encapsulation (draft-ietf-intarea-gue-09, variant
 * 0) with private data that carries the rest of the owner chain. docs/protocol.md draws it bit by
 * bit.
 */
#ifndef EDGE_GUE_H
#define EDGE_GUE_H

#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/udp.h>

#include "checksum.h"

#define GUE_PORT 6080		    /* IANA: gue */
#define GUE_SOURCE_PORT_BASE 0xc000 /* the dynamic ports, 49152 to 65535 (RFC 6335 section 6) */
#define GUE_SOURCE_PORT_MASK 0x3fff
#define GUE_HLEN 3 /* 32-bit words of private data; its octet also says variant 0 and C = 0 */
#define GUE_FLAGS_NONE 0
#define CHAIN_VERSION 1
#define MAX_HOPS 3 /* owners after the first: chains hold four */

#define OUTER_TTL 64 /* RFC 1700's recommendation; a redirector takes one off */
#define IPV4_DONT_FRAGMENT 0x4000

struct gue {
	__u8 variant_control_hlen;
	__u8 protocol;
	__be16 flags;
	/* private data */
	__u8 version;
	__u8 next_hop;
	__u8 hop_count;
	__u8 reserved;
	__be16 l4_node;
	__be16 hops[MAX_HOPS];
};

/* Everything between Ethernet and the inner packet. */
struct outer_v4 {
	struct iphdr ip;
	struct udphdr udp;
	struct gue gue;
};

struct outer_v6 {
	struct ipv6hdr ip;
	struct udphdr udp;
	struct gue gue;
};

/* What encapsulation adds to a packet. */
#define ENCAPSULATION (sizeof(struct outer_v4))

#endif

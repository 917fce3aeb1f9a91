/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A flow as both programs know it: the client's end and the service's end. IPv4 addresses are kept
 * mapped into IPv6 (RFC 4291 section 2.5.5.2), so that one map serves both families.
 */
#ifndef EDGE_FLOW_H
#define EDGE_FLOW_H

#include <uapi/linux/types.h>

struct service {
	__be32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct flow {
	struct service service;
	__be32 client[4];
	__be16 client_port;
	__u16 zero;
};

static __always_inline void map_ipv4(__be32 mapped[4], __be32 address)
{
	mapped[0] = 0;
	mapped[1] = 0;
	mapped[2] = htonl(0xffff);
	mapped[3] = address;
}

/* Without branches: of those, the compiler would make a call of memcmp, and there is none here. */
static __always_inline bool is_same_address(const __be32 one[4], const __be32 other[4])
{
	return !((one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]) |
		 (one[3] ^ other[3]));
}

#endif

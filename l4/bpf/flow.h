/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A flow as both programs know it: the client's end and the service's end. IPv4 addresses are kept
 * mapped into IPv6 (RFC 4291 section 2.5.5.2), so that one map serves both families.
 */
#ifndef EDGE_FLOW_H
#define EDGE_FLOW_H

#include <uapi/linux/types.h>

#define WORD_ALIGNED __attribute__((aligned(8)))

struct service {
	__be32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct flow {
	__be32 client[4];
	struct service service;
	__be16 client_port;
	__u16 zero;
} WORD_ALIGNED;

/*
 * Eight octets of the above. Flows are written and read in these where that can be: a processor
 * waits a dozen cycles when it loads what several narrower stores have just written (Intel,
 * "Optimization Reference Manual", "Store Forwarding").
 */
typedef __u64 __attribute__((may_alias)) word64;

static __always_inline __u64 pair(__be32 low, __be32 high)
{
	return (__u64)high << 32 | low;
}

static __always_inline void copy_address(__be32 to[4], const __be32 from[4])
{
	word64 *halves = (word64 *)to;

	halves[0] = pair(from[0], from[1]);
	halves[1] = pair(from[2], from[3]);
}

static __always_inline void map_ipv4(__be32 mapped[4], __be32 address)
{
	word64 *halves = (word64 *)mapped;

	halves[0] = 0;
	halves[1] = pair(htonl(0xffff), address);
}

/* Without branches: of those, the compiler would make a call of memcmp, and there is none here. */
static __always_inline bool is_same_address(const __be32 one[4], const __be32 other[4])
{
	return !((one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]) |
		 (one[3] ^ other[3]));
}

/* All that follows the addresses. */
static __always_inline void set_ends(struct flow *flow, __u8 protocol, __be16 client_port,
				     __be16 service_port)
{
	*(word64 *)&flow->service.port =
	    (__u64)client_port << 32 | (__u32)protocol << 16 | service_port;
}

/* A flow of IPv4 once more, as a key that takes a third of the time to be hashed and compared. */
struct ipv4_flow {
	__u64 addresses; /* the client's, then the service's */
	__u64 ends;	 /* all that follows them in `flow` */
};

static __always_inline struct ipv4_flow shorten(const struct flow *flow)
{
	struct ipv4_flow shortened = {
	    .addresses = pair(flow->client[3], flow->service.address[3]),
	    .ends = *(const word64 *)&flow->service.port,
	};

	return shortened;
}

/* Protocol and port, and nothing else. */
static __always_inline __u32 protocol_and_port(const struct service *service)
{
	return (__u32)service->protocol << 16 | service->port;
}

#endif

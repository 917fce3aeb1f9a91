/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* IPv6 extension headers: read over, on the way to what they are put before. */
#ifndef EDGE_EXTENSIONS_H
#define EDGE_EXTENSIONS_H

#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ipv6.h>

#include "packet.h"

/* Hop-by-hop, destination options, routing, fragment, destination options: all that RFC 8200
 * section 4.1 has a packet bear before its upper layer, ESP and AH aside. */
#define MAX_EXTENSIONS 5

#define IPV6_FRAGMENT 0xfff9 /* offset, or "more fragments" */
#define IPV6_FRAGMENT_OFFSET 0xfff8

/* The first eight octets of any extension header. */
struct extension {
	__u8 next;
	__u8 length; /* in units of 8 octets after these; a fragment header's is reserved */
	union {
		struct {
			__u8 type;
			__u8 segments_left;
		} routing;
		__be16 fragment;
	};
	__be32 rest;
};

/* What stands behind the extension headers. */
struct upper_layer {
	__u32 offset; /* from the IPv6 header */
	__u8 protocol;
	__u8 is_fragment;
};

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_DSTOPTS;
}

/*
 * Finds the upper layer. A packet that is a fragment ends the walk at its fragment header: of those
 * that follow the first, no other has the next headers. A quoted packet needs no such care: if it
 * is the first fragment, what follows can be read. An atomic fragment (RFC 6946) is whole.
 */
static __always_inline int skip_extensions(const struct ipv6hdr *ip, const void *end,
					   const bool is_quoted, struct upper_layer *upper)
{
	const struct extension *extension;

	upper->offset = sizeof(*ip);
	upper->protocol = ip->nexthdr;
	upper->is_fragment = 0;
#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(upper->protocol))
			return PARSED;
		extension = (void *)ip + upper->offset;
		if ((void *)(extension + 1) > end)
			return COUNT_truncated;
		if (upper->protocol == IPPROTO_FRAGMENT) {
			upper->offset += sizeof(*extension);
			upper->protocol = extension->next;
			if (extension->fragment &
			    htons(is_quoted ? IPV6_FRAGMENT_OFFSET : IPV6_FRAGMENT)) {
				upper->is_fragment = 1;
				return PARSED;
			}
			continue;
		}
		/* On its way to somewhere else, by a route of its sender's choice. */
		if (!is_quoted && upper->protocol == IPPROTO_ROUTING &&
		    extension->routing.segments_left)
			return COUNT_source_route;
		upper->offset += (extension->length + 1U) * sizeof(*extension);
		upper->protocol = extension->next;
	}
	return is_extension(upper->protocol) ? COUNT_too_many_extensions : PARSED;
}

#endif

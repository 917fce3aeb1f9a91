/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Ethernet. In 16-bit units, which the kernel's own packed structure would have copied octet by
 * octet. */
#ifndef EDGE_ETHERNET_H
#define EDGE_ETHERNET_H

#include <uapi/linux/if_ether.h>

#define MAC_UNITS (ETH_ALEN / 2)

struct ethernet {
	__u16 destination[MAC_UNITS];
	__u16 source[MAC_UNITS];
	__be16 type;
};

/* Sends a frame back where it came from: `reply` may lie over `arrived`. */
static __always_inline void turn_around(struct ethernet *reply, const struct ethernet *arrived)
{
	struct ethernet copy = *arrived;

	__builtin_memcpy(reply->destination, copy.source, sizeof(copy.source));
	__builtin_memcpy(reply->source, copy.destination, sizeof(copy.destination));
}

#endif

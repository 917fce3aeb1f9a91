/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Ethernet. In 16-bit units, which the kernel's own packed structure would have copied octet by
 * octet. */
#ifndef EDGE_ETHERNET_H
#define EDGE_ETHERNET_H

#include <uapi/linux/if_ether.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "addresses are exchanged within little-endian words; this machine needs other shifts here"
#endif

#define MAC_UNITS (ETH_ALEN / 2)

struct ethernet {
	__u16 destination[MAC_UNITS];
	__u16 source[MAC_UNITS];
	__be16 type;
};

/* Sends a frame back where it came from: `reply` may lie over `arrived`. Two loads and two stores.
 */
static __always_inline void turn_around(struct ethernet *reply, const struct ethernet *arrived)
{
	__u64 low = *(const __u64 *)arrived;
	__u64 high = *((const __u32 *)arrived + 2);

	*(__u64 *)reply = low >> 48 | high << 16 | low << 48;
	*((__u32 *)reply + 2) = low >> 16;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Members by identifier, and how packets may name them: never by address. */
#ifndef EDGE_MEMBERS_H
#define EDGE_MEMBERS_H

#include <uapi/linux/types.h>

#include "pin.h"

#define MEMBER_KNOWN 1 /* without it, the entry is empty */
#define MEMBER_LIVE 2
#define MEMBER_IPV6 4 /* the outer header is IPv6 */

struct member {
	__be32 address[4]; /* on the underlay; IPv4 is mapped */
	__u16 mac[3];	   /* for the L2 rewrite; 0: not known */
	__u16 flags;
};

BPF_TABLE_PINNED("array", __u32, struct member, members, IDENTIFIERS, PIN(members));

/* NULL if the identifier means nobody. */
static __always_inline struct member *find_member(__u16 id)
{
	__u32 index = id;
	struct member *member = members.lookup(&index);

	return member && member->flags ? member : NULL;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Members by identifier, and how packets may name them: never by address. */
#ifndef EDGE_MEMBERS_H
#define EDGE_MEMBERS_H

#include <uapi/linux/types.h>

#include "pin.h"

#define MEMBER_LIVE 1

struct member {
	__be32 address; /* on the underlay; 0: no such member */
	__u32 flags;
};

BPF_TABLE_PINNED("array", __u32, struct member, members, IDENTIFIERS, PIN("members"));

/* NULL if the identifier means nobody. */
static __always_inline struct member *find_member(__u16 id)
{
	__u32 index = id;
	struct member *member = members.lookup(&index);

	return member && member->address ? member : NULL;
}

#endif

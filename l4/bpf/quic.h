/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * QUIC whose servers say in each connection id who they are (draft-ietf-quic-load-balancers-21,
 * section 4.1, unencrypted): such packets find their server whatever address their client has moved
 * to. Our server ids are member ids. Only short headers (RFC 9000 section 17.3) go this way: the
 * connection id of a long one may still be the client's own choice.
 */
#ifndef EDGE_QUIC_H
#define EDGE_QUIC_H

#include "forwarding.h"

#define QUIC_LONG_HEADER 0x80	  /* RFC 9000 section 17.2 */
#define QUIC_CONFIG_ROTATION 0xe0 /* in a connection id's first octet */
#define QUIC_UNROUTABLE 0xe0	  /* a server that has no configuration chose the connection id */

struct quic_short {
	__u8 flags;
	__u8 connection_id; /* its first octet: config rotation and length */
	__be16 server_id;
};

/* Finds the member that a short header names, if there is one and it is live. */
static __always_inline void follow_server_id(const struct packet *packet, const void *end,
					     const struct vip *vip, struct route *route)
{
	const struct quic_short *quic = (void *)(packet->udp + 1);
	struct quic_server key = {.slot = vip->slot};
	struct member *member;
	__u32 *id;

	if ((void *)(quic + 1) > end ||
	    ntohs(packet->udp->len) < sizeof(*packet->udp) + sizeof(*quic) ||
	    (quic->flags & QUIC_LONG_HEADER) ||
	    (quic->connection_id & QUIC_CONFIG_ROTATION) == QUIC_UNROUTABLE)
		return;
	key.id = ntohs(quic->server_id);
	id = quic_servers.lookup(&key);
	if (!id) {
		count(COUNT_quic_unknown_server);
		return;
	}
	member = find_member(*id);
	if (!member || !(member->flags & MEMBER_LIVE))
		return;
	count(COUNT_quic_by_server_id);
	take_owner(*id, member, route);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From a flow to its owners: hash, row, first live owner, and the rest of the chain. */
#ifndef EDGE_FORWARDING_H
#define EDGE_FORWARDING_H

#include "balancer_maps.h"
#include "members.h"
#include "parse.h"
#include "siphash.h"

#define MAX_TABLES 256 /* one for each slot that a pool can have */
#define OWNERS_PER_ROW 4
#define OWNER_BITS 16

/* A row: owner identifiers, newest first, the first in the lowest bits; 0 ends the chain. Tables
 * are written and read through a mapping: a copy, instead of a call for each row. */
BPF_F_TABLE("array", __u32, __u64, table_prototype, ROWS, BPF_F_MMAPABLE);
BPF_TABLE_PINNED("array_of_maps$table_prototype", __u32, __u32, tables, MAX_TABLES, PIN(tables));

enum {
	ROUTED = -1, /* other results are counters: why there is no route */
};

/* Where a packet goes. */
struct route {
	const struct member *member; /* NULL: nowhere */
	__u16 owner;
	__u64 rest; /* the chain behind it, as in a row */
};

static __always_inline __u64 hash_flow(const struct flow *flow, bool is_ipv6, const __u64 key[2])
{
	__u64 ports_and_protocol = (__u64)flow->service.protocol << 32 |
				   (__u32)flow->service.port << 16 | flow->client_port;
	const __be32 *client = flow->client;
	const __be32 *service = flow->service.address;
	struct siphash state;

	siphash_begin(&state, key);
	if (!is_ipv6) {
		siphash_word(&state, pair(client[3], service[3]));
		siphash_word(&state, ports_and_protocol);
		return siphash_end(&state, 2);
	}
	siphash_word(&state, pair(client[0], client[1]));
	siphash_word(&state, pair(client[2], client[3]));
	siphash_word(&state, pair(service[0], service[1]));
	siphash_word(&state, pair(service[2], service[3]));
	siphash_word(&state, ports_and_protocol);
	return siphash_end(&state, 5);
}

/* Of the client's address alone, for VIPs that keep all of a client's flows together. */
static __always_inline __u64 hash_source(const struct flow *flow, bool is_ipv6, const __u64 key[2])
{
	const __be32 *client = flow->client;
	struct siphash state;

	siphash_begin(&state, key);
	if (!is_ipv6) {
		siphash_word(&state, pair(client[3], 0));
		return siphash_end(&state, 1);
	}
	siphash_word(&state, pair(client[0], client[1]));
	siphash_word(&state, pair(client[2], client[3]));
	return siphash_end(&state, 2);
}

/* The row of a hash, by multiplication: division is slow (Lemire, "Fast random integer generation
 * in an interval", 2019). NULL if the slot has no table. */
static __always_inline __u64 *find_row(__u32 slot, __u64 hash)
{
	void *table = tables.lookup(&slot);
	__u32 row = ((hash & 0xffffffff) * ROWS) >> 32;

	return table ? bpf_map_lookup_elem(table, &row) : NULL;
}

static __always_inline void take_owner(__u64 chain, struct member *member, struct route *route)
{
	route->owner = chain;
	route->member = member;
	route->rest = chain >> OWNER_BITS;
}

/*
 * Walks the chain to its first live owner. If none is live, the bits are ignored and the first
 * known owner is taken: better a late packet than none (fail open). The usual chain costs one
 * look-up.
 */
static __always_inline void choose_owner(__u64 chain, struct route *route)
{
	struct member *member;

#pragma unroll
	for (int i = 0; i < OWNERS_PER_ROW; i++) {
		if (!(__u16)chain)
			break;
		member = find_member(chain);
		if (!member) {
			count(COUNT_member_unknown);
		} else if (member->flags & MEMBER_LIVE) {
			take_owner(chain, member, route);
			return;
		} else {
			count(COUNT_owner_not_live);
			if (!route->member)
				take_owner(chain, member, route);
		}
		chain >>= OWNER_BITS;
	}
	if (route->member)
		count(COUNT_fail_open);
}

#endif

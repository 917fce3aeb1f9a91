/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Who is on the operator's lists? Asked of every packet to a VIP once there are lists, so the
 * answer must cost little however long they are. The most specific prefix decides.
 *
 * IPv4 is worked out beforehand (l4/guard_lists.py), as Gupta, Lin and McKeown did for routes
 * ("Routing lookups in hardware at memory access speeds", 1998): two bits for each /24, and only
 * where the addresses within differ, two bits for each of them. One look-up, sometimes two, in an
 * array, where a trie walks a dozen nodes. The array has two halves. The settings name that which
 * is in use; new lists are written to the other (l4/guard_halves.py).
 *
 * IPv6 has a trie, behind a filter that knows most addresses to have nothing listed near them.
 */
#ifndef EDGE_GUARD_LISTS_H
#define EDGE_GUARD_LISTS_H

#include "balancer_maps.h"
#include "packet.h"

#define MAX_LISTED 65536 /* prefixes of each family */

enum listing {
	UNLISTED = 0,
	BLOCKED = 1,
	ALLOWED = 2, /* neither blocked nor limited */
	DIFFERS = 3, /* of a /24: from address to address */
};

#define LISTING_BITS 2

/*
 * First, by address, words that each tell of 8 networks. From the lowest bit on: two bits for each,
 * its listing; three for each, how many of those before it differ within; and where the addresses
 * of the first that does begin. These come thereafter, a block of 8 words for each such network, in
 * order.
 */
#define NETWORKS_PER_WORD 8
#define RANK_BITS 3
#define RANKS_SHIFT (NETWORKS_PER_WORD * LISTING_BITS)
#define FIRST_SHIFT (RANKS_SHIFT + NETWORKS_PER_WORD * RANK_BITS)
#define NETWORK_WORDS ((1 << 24) / NETWORKS_PER_WORD)
#define HOSTS_PER_WORD 32
#define BLOCK_WORDS (256 / HOSTS_PER_WORD)
#define HALF_WORDS (NETWORK_WORDS + MAX_LISTED * BLOCK_WORDS)

BPF_TABLE_PINNED("array", __u32, __u64, guard_ipv4, 2 * HALF_WORDS, PIN(guard_ipv4),
		 BPF_F_MMAPABLE);

struct listed_prefix {
	__u32 length; /* in bits */
	__be32 address[4];
};

BPF_TABLE_PINNED("lpm_trie", struct listed_prefix, __u32, guard_ipv6, MAX_LISTED, PIN(guard_ipv6),
		 BPF_F_NO_PREALLOC);

/*
 * Bits that are set where a walk of the trie may find something: for each /32 with a prefix of 32
 * to 47 bits in it, or with a shorter one around it; and for each /48 with a longer one in it.
 * There, more bits tell whether it is within the /64, or of 48 to 63 bits. Each has one bit, found
 * by multiplication (Knuth, "The Art of Computer Programming" 3, section 6.4); a bit that others
 * have set costs a walk, and no more.
 */
#define FILTER_BITS 21
#define FILTER_MULTIPLIER 0x9e3779b97f4a7c15ULL
#define FILTER_SALT 0xd6e8feb86659fd93ULL /* of the keys of /64s, which leave no room to say so */
BPF_TABLE_PINNED("array", __u32, __u64, guard_ipv6_filter, 1 << (FILTER_BITS - 6),
		 PIN(guard_ipv6_filter), BPF_F_MMAPABLE);

static __always_inline int pick_listing(__u64 word, __u32 index)
{
	return word >> index * LISTING_BITS & 3;
}

/* Where, in a half, a network that differs has its addresses. */
static __always_inline __u32 block_of(__u64 word, __u32 index)
{
	__u32 rank = word >> (RANKS_SHIFT + index * RANK_BITS) & (NETWORKS_PER_WORD - 1);

	return NETWORK_WORDS + ((__u32)(word >> FIRST_SHIFT) + rank) * BLOCK_WORDS;
}

static __always_inline int find_ipv4_listing(__be32 client, const struct balancer_settings *node)
{
	__u32 address = ntohl(client), network = address >> 8;
	/* A product instead of a choice: nothing to guess. */
	__u32 half = (node->flags & NODE_LISTS_OTHER) * (HALF_WORDS / NODE_LISTS_OTHER);
	__u32 index = half + network / NETWORKS_PER_WORD;
	__u64 *word = guard_ipv4.lookup(&index);
	int listing;

	if (!word)
		return UNLISTED;
	listing = pick_listing(*word, network % NETWORKS_PER_WORD);
	if (likely(listing != DIFFERS))
		return listing;
	index = half + block_of(*word, network % NETWORKS_PER_WORD) +
		address / HOSTS_PER_WORD % BLOCK_WORDS;
	word = guard_ipv4.lookup(&index);
	return word ? pick_listing(*word, address % HOSTS_PER_WORD) : UNLISTED;
}

static __always_inline bool is_in_filter(__u64 prefix)
{
	__u64 bit = prefix * FILTER_MULTIPLIER >> (64 - FILTER_BITS);
	__u32 index = bit / 64;
	__u64 *word = guard_ipv6_filter.lookup(&index);

	return word && (*word >> (bit % 64) & 1);
}

static __always_inline bool is_near_listed(const __be32 client[4])
{
	__u64 network = (__u64)ntohl(client[0]) << 32 | ntohl(client[1]);
	__u64 of_48 = network & ~0xffffULL;

	/* What the bit stands for is in its key: a /32 is another than its first /48. */
	if (unlikely(is_in_filter((network & ~0xffffffffULL) | 32)))
		return true;
	if (likely(!is_in_filter(of_48 | 48)))
		return false;
	return is_in_filter(of_48 | 63) || is_in_filter(network ^ FILTER_SALT);
}

static __always_inline int find_ipv6_listing(const __be32 client[4])
{
	struct listed_prefix prefix = {.length = 128};
	__u32 *listing;

	if (likely(!is_near_listed(client)))
		return UNLISTED;
	__builtin_memcpy(prefix.address, client, sizeof(prefix.address));
	listing = guard_ipv6.lookup(&prefix);
	return listing ? *listing : UNLISTED;
}

/* An ICMP error counts as the client's whose packet it quotes. */
static __always_inline int find_listing(const struct packet *packet,
					const struct balancer_settings *node)
{
	return packet->is_ipv6 ? find_ipv6_listing(packet->flow.client)
			       : find_ipv4_listing(packet->flow.client[3], node);
}

#endif

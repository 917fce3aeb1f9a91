/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The Internet checksum (RFC 1071). Its sums do not mind the order of octets. */
#ifndef EDGE_CHECKSUM_H
#define EDGE_CHECKSUM_H

#include <uapi/linux/ip.h>

/* Of a sum of 16-bit or 32-bit words that is less than 2^48. */
static __always_inline __u16 fold_checksum(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* For a header without options whose checksum field is zero. */
static __always_inline __u16 ipv4_checksum(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;

	return fold_checksum((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
}

/*
 * The checksum of a message in which one 16-bit word changes (RFC 1624, equation 3). Never 0: where
 * all octets are zero, as those of an echo reply may be, only 0xffff is right, and elsewhere the
 * two are the same number.
 */
static __always_inline __u16 update_checksum(__u16 checksum, __u16 from, __u16 to)
{
	__u16 updated = fold_checksum((__u64)(__u16)~checksum + (__u16)~from + to);

	return updated ? updated : 0xffff;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the node says itself, in a VIP's name: whom it answers, and how often. Answers go back to
 * the router that brought the question, whatever the way out of forwarded packets.
 */
#ifndef EDGE_ANSWER_H
#define EDGE_ANSWER_H

#include "balancer_maps.h"
#include "packet.h"
#include "rate_limit.h"

/*
 * Answers a second and in one burst, on each CPU. Errors: Linux's own defaults
 * (net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst). Echo replies, which are not larger than what
 * they answer: as many as one monitoring system or a traceroute of many may need, and far below
 * what would keep a CPU busy.
 */
#define TOO_BIG_PER_SECOND 1000
#define TOO_BIG_BURST 50
#define ECHO_PER_SECOND 10000
#define ECHO_BURST 500

#define ANSWER_TTL 64

enum answer {
	ANSWER_TOO_BIG,
	ANSWER_ECHO,
	ANSWERS,
};

BPF_TABLE("percpu_array", __u32, __u64, answer_limits, ANSWERS);

static __always_inline bool may_answer(__u32 answer, __u32 per_second, __u32 burst)
{
	__u64 *full_at = answer_limits.lookup(&answer);
	__u64 interval = NS_PER_S / per_second;

	return full_at && take_token(full_at, bpf_ktime_get_ns(), interval, interval * burst);
}

/* Nobody is at home at other addresses (RFC 1122 section 3.2.2, RFC 4443 section 2.4). */
static __always_inline bool is_host_address(const __be32 address[4], bool is_ipv6)
{
	__u8 first = is_ipv6 ? ntohl(address[0]) >> 24 : ntohl(address[3]) >> 24;

	if (is_ipv6)
		return first != 0xff && (address[0] | address[1] | address[2]);
	return first != 0 && first != 127 && first < 224;
}

/* Counts the answer, or why there is none. Returns the outcome. */
static __always_inline int answered(__u32 verdict, __u32 counter, __u32 vip_id)
{
	count(counter);
	return because(verdict, counter, vip_id);
}

#endif

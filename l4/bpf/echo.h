/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Ping (RFC 792, RFC 4443 section 4): the question goes back as its own answer. No octet of its
 * data is touched, so any size will do.
 */
#ifndef EDGE_ECHO_H
#define EDGE_ECHO_H

#include <uapi/linux/icmp.h>
#include <uapi/linux/icmpv6.h>

#include "answer.h"
#include "checksum.h"
#include "egress.h"

/* A request with IPv4 options or IPv6 extension headers is the kernel's: some of them would have to
 * be answered in kind (RFC 1122 section 3.2.2.6). */
static __always_inline bool is_plain(const struct packet *packet, const void *end)
{
	const struct iphdr *v4 = packet->ip;
	const struct ipv6hdr *v6 = packet->ip;

	if (packet->is_ipv6)
		return (const void *)(v6 + 1) + sizeof(struct icmp6hdr) <= end &&
		       v6->nexthdr == IPPROTO_ICMPV6;
	return (const void *)(v4 + 1) + sizeof(struct icmphdr) <= end && v4->ihl == sizeof(*v4) / 4;
}

/* The reply has the request's type of service (RFC 1349 section 5.1), without congestion marks. */
static __always_inline int reply_to_echo(const struct packet *packet, void *end)
{
	struct iphdr *ip = packet->ip;
	struct icmphdr *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) > end)
		return -1;
	ip->tos &= DSCP_MASK;
	ip->ttl = ANSWER_TTL;
	ip->saddr = packet->flow.service.address[3];
	ip->daddr = packet->flow.client[3];
	ip->check = 0;
	ip->check = ipv4_checksum(ip);
	icmp->checksum =
	    update_checksum(icmp->checksum, htons(ICMP_ECHO << 8), htons(ICMP_ECHOREPLY << 8));
	icmp->type = ICMP_ECHOREPLY;
	return 0;
}

/* The pseudo-header has the same addresses, the other way round: its sum stays. */
static __always_inline int reply_to_echo_v6(const struct packet *packet, void *end)
{
	struct ipv6hdr *ip = packet->ip;
	struct icmp6hdr *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) > end)
		return -1;
	ip->flow_lbl[0] &= 0xcf; /* ECN: the last two bits of the traffic class */
	ip->hop_limit = ANSWER_TTL;
	__builtin_memcpy(&ip->saddr, packet->flow.service.address, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, packet->flow.client, sizeof(ip->daddr));
	icmp->icmp6_cksum = update_checksum(icmp->icmp6_cksum, htons(ICMPV6_ECHO_REQUEST << 8),
					    htons(ICMPV6_ECHO_REPLY << 8));
	icmp->icmp6_type = ICMPV6_ECHO_REPLY;
	return 0;
}

/* Answers an echo request to a VIP's address. Returns the outcome. */
static __always_inline int answer_echo(struct xdp_md *ctx, const struct packet *packet)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = (void *)(long)ctx->data;
	int failed;

	if (!is_host_address(packet->flow.client, packet->is_ipv6))
		return answered(XDP_DROP, COUNT_echo_unanswerable, 0);
	if (!may_answer(ANSWER_ECHO, ECHO_PER_SECOND, ECHO_BURST))
		return answered(XDP_DROP, COUNT_echo_limited, 0);
	if (!is_plain(packet, end) || (void *)(ethernet + 1) > end)
		return answered(XDP_PASS, COUNT_echo_passed, 0);
	failed = packet->is_ipv6 ? reply_to_echo_v6(packet, end) : reply_to_echo(packet, end);
	if (failed)
		return answered(XDP_PASS, COUNT_echo_passed, 0);
	turn_around(ethernet, ethernet);
	return answered(XDP_TX, COUNT_echo_answered, 0);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From a frame to a flow. Every bound is checked, and no length field is trusted: what an IP header
 * claims must lie within the frame, what a TCP header claims within what IP claims.
 */
#ifndef EDGE_PARSE_H
#define EDGE_PARSE_H

#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

#include "counters.h"
#include "packet.h"
#include "quote.h"

/* Reads the TCP header at `start`, which has `length` octets by what IP claims. */
static __always_inline int parse_tcp(void *start, void *end, __u32 length, struct packet *packet)
{
	struct tcphdr *tcp = start;
	__u8 flags;

	if ((void *)(tcp + 1) > end)
		return COUNT_truncated;
	if (tcp->doff < 5 || tcp->doff * 4U > length)
		return COUNT_bad_tcp_header;

	/* None at all, or SYN with FIN or RST: no TCP sends these, only scanners do. */
	flags = ((__u8 *)tcp)[13] & TCP_ALL;
	if (!flags || ((flags & TCP_SYN) && (flags & (TCP_FIN | TCP_RST))))
		return COUNT_bad_tcp_flags;

	packet->tcp = tcp;
	packet->tcp_flags = flags;
	packet->flow.client_port = tcp->source;
	packet->flow.service.port = tcp->dest;
	return PARSED;
}

static __always_inline int parse_ipv4(struct iphdr *ip, void *end, struct packet *packet)
{
	__u32 header;

	if ((void *)(ip + 1) > end)
		return NOT_IP;
	packet->traffic_class = ip->tos;
	map_ipv4(packet->flow.client, ip->saddr);
	map_ipv4(packet->flow.service.address, ip->daddr);

	header = ip->ihl * 4;
	packet->length = ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip))
		return COUNT_bad_ip_header;
	if (packet->length < header || (void *)ip + packet->length > end)
		return COUNT_bad_ip_length;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_ICMP)
		return COUNT_other_protocol;
	if (ip->frag_off & htons(IPV4_FRAGMENT))
		return COUNT_fragment;
	if (ip->protocol == IPPROTO_ICMP)
		return parse_icmp_quote((void *)ip + header, end, packet->length - header, packet);
	return parse_tcp((void *)ip + header, end, packet->length - header, packet);
}

static __always_inline int parse_ipv6(struct ipv6hdr *ip, void *end, struct packet *packet)
{
	__u32 payload;

	if ((void *)(ip + 1) > end)
		return NOT_IP;
	packet->is_ipv6 = 1;
	packet->traffic_class = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	__builtin_memcpy(packet->flow.client, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(packet->flow.service.address, &ip->daddr, sizeof(ip->daddr));

	payload = ntohs(ip->payload_len);
	if (ip->version != 6)
		return COUNT_bad_ip_header;
	/* Without a payload only a jumbogram (RFC 2675) could be meant, and no link here has any.
	 */
	if (!payload || payload > 0xffff - sizeof(*ip) || (void *)(ip + 1) + payload > end)
		return COUNT_bad_ip_length;
	packet->length = sizeof(*ip) + payload;

	switch (ip->nexthdr) {
	case IPPROTO_TCP:
		return parse_tcp(ip + 1, end, payload, packet);
	case IPPROTO_ICMPV6:
		return parse_icmpv6_quote(ip + 1, end, payload, packet);
	case IPPROTO_FRAGMENT:
		return COUNT_fragment;
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
		return COUNT_ipv6_extension;
	default:
		return COUNT_other_protocol;
	}
}

/* Reads the IP packet at `ip`. `packet` must be zero, but for flow.service.protocol. */
static __always_inline int parse_ip(void *ip, void *end, __be16 ethertype, struct packet *packet)
{
	packet->ip = ip;
	packet->flow.service.protocol = IPPROTO_TCP;
	if (ethertype == htons(ETH_P_IP))
		return parse_ipv4(ip, end, packet);
	if (ethertype == htons(ETH_P_IPV6))
		return parse_ipv6(ip, end, packet);
	return NOT_IP;
}

#endif

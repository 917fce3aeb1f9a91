/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ICMP errors (RFC 792, RFC 4443): they follow the flow of the packet that they quote, of which
 * eight octets of TCP or UDP are enough. The quoted packet went from the VIP to the client, so its
 * ends are the other way round.
 */
#ifndef EDGE_QUOTE_H
#define EDGE_QUOTE_H

#include <uapi/linux/icmp.h>
#include <uapi/linux/icmpv6.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

#include "extensions.h"
#include "packet.h"

#define ICMP_HEADER 8

/* Of the quoted TCP or UDP: RFC 792 promises eight octets of it. */
struct quoted_ports {
	__be16 source;
	__be16 destination;
};

/* The addresses are known; with the ports, the quoted packet's flow is. */
static __always_inline int read_quoted_ports(void *start, void *end, __u8 protocol,
					     struct packet *packet)
{
	struct quoted_ports *ports = start;

	if ((void *)(ports + 1) > end)
		return COUNT_truncated;
	set_ends(&packet->flow, protocol, ports->destination, ports->source);
	packet->is_icmp_error = 1;
	return PARSED;
}

/* Turns the packet's flow from that of an ICMP error of `length` octets into the quoted one. */
static __always_inline int parse_icmp_quote(void *start, void *end, __u32 length,
					    struct packet *packet)
{
	struct iphdr *quoted = start + ICMP_HEADER;
	__u32 header;

	if ((void *)(quoted + 1) > end)
		return COUNT_truncated;
	header = quoted->ihl * 4;
	if (quoted->version != 4 || header < sizeof(*quoted) ||
	    (quoted->protocol != IPPROTO_TCP && quoted->protocol != IPPROTO_UDP) ||
	    quoted->saddr != packet->flow.service.address[3] ||
	    (quoted->frag_off & htons(IPV4_FRAGMENT_OFFSET)))
		return COUNT_foreign_quote;
	if (ICMP_HEADER + header + sizeof(struct quoted_ports) > length)
		return COUNT_truncated;
	map_ipv4(packet->flow.client, quoted->daddr);
	return read_quoted_ports((void *)quoted + header, end, quoted->protocol, packet);
}

static __always_inline int parse_icmpv6_quote(void *start, void *end, __u32 length,
					      struct packet *packet)
{
	struct ipv6hdr *quoted = start + ICMP_HEADER;
	struct upper_layer upper;
	int result;

	if ((void *)(quoted + 1) > end)
		return COUNT_truncated;
	if (quoted->version != 6 ||
	    !is_same_address(quoted->saddr.in6_u.u6_addr32, packet->flow.service.address))
		return COUNT_foreign_quote;
	result = skip_extensions(quoted, end, true, &upper);
	if (result != PARSED)
		return result;
	if ((upper.protocol != IPPROTO_TCP && upper.protocol != IPPROTO_UDP) || upper.is_fragment)
		return COUNT_foreign_quote;
	if (ICMP_HEADER + upper.offset + sizeof(struct quoted_ports) > length)
		return COUNT_truncated;
	copy_address(packet->flow.client, quoted->daddr.in6_u.u6_addr32);
	return read_quoted_ports((void *)quoted + upper.offset, end, upper.protocol, packet);
}

/* Reads an ICMP header at `start`, of a message of `length` octets. */
static __always_inline int parse_icmp(void *start, void *end, __u32 length, struct packet *packet)
{
	struct icmphdr *icmp = start;

	if ((void *)(icmp + 1) > end || length < sizeof(*icmp))
		return COUNT_truncated;
	if (icmp->type == ICMP_ECHO && !icmp->code) {
		set_ends(&packet->flow, IPPROTO_ICMP, 0, 0);
		packet->is_echo = 1;
		return PARSED;
	}
	if (icmp->type != ICMP_DEST_UNREACH && icmp->type != ICMP_TIME_EXCEEDED &&
	    icmp->type != ICMP_PARAMETERPROB)
		return COUNT_other_protocol;
	return parse_icmp_quote(start, end, length, packet);
}

static __always_inline int parse_icmpv6(void *start, void *end, __u32 length, struct packet *packet)
{
	struct icmp6hdr *icmp = start;

	if ((void *)(icmp + 1) > end || length < sizeof(*icmp))
		return COUNT_truncated;
	if (icmp->icmp6_type == ICMPV6_ECHO_REQUEST && !icmp->icmp6_code) {
		set_ends(&packet->flow, IPPROTO_ICMPV6, 0, 0);
		packet->is_echo = 1;
		return PARSED;
	}
	if (icmp->icmp6_type < ICMPV6_DEST_UNREACH || icmp->icmp6_type > ICMPV6_PARAMPROB)
		return COUNT_other_protocol;
	return parse_icmpv6_quote(start, end, length, packet);
}

#endif

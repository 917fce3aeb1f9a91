/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From an IP packet to a flow. Every bound is checked, and no length field is trusted: what an IP
 * header claims must lie within the frame, what TCP and UDP claim within what IP claims.
 */
#ifndef EDGE_PARSE_H
#define EDGE_PARSE_H

#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

#include "counters.h"
#include "extensions.h"
#include "packet.h"
#include "quote.h"
#include "verifier.h"

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
	set_ends(&packet->flow, IPPROTO_TCP, tcp->source, tcp->dest);
	return PARSED;
}

/* What UDP leaves of IP's payload is none of its own (RFC 9868), and no lie. */
static __always_inline int parse_udp(void *start, void *end, __u32 length, struct packet *packet)
{
	struct udphdr *udp = start;
	__u16 claimed;

	if ((void *)(udp + 1) > end || length < sizeof(*udp))
		return COUNT_truncated;
	claimed = ntohs(udp->len);
	if (claimed < sizeof(*udp) || claimed > length)
		return COUNT_bad_udp_length;

	packet->udp = udp;
	set_ends(&packet->flow, IPPROTO_UDP, udp->source, udp->dest);
	return PARSED;
}

/*
 * A fragment's flow has no ports, so that all fragments of a datagram have the same. Those of ICMP
 * quote nothing, or not all; those that begin with one more extension header do not say whose they
 * are.
 */
static __always_inline int parse_fragment(__u8 protocol, struct packet *packet)
{
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6 || is_extension(protocol))
		return COUNT_fragment;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return COUNT_other_protocol;
	set_ends(&packet->flow, protocol, 0, 0);
	packet->is_fragment = 1;
	return PARSED;
}

/* Joins the less usual ways: what was found is all that counts from here on, not how. */
static __always_inline int join(int result, struct packet *packet)
{
	if (result != PARSED)
		return result;
	set_ends(&packet->flow, forget(packet->flow.service.protocol, packet->ip, 0xff),
		 forget(packet->flow.client_port, packet->ip, 0xffff),
		 forget(packet->flow.service.port, packet->ip, 0xffff));
	packet->length = forget(packet->length, packet->ip, 0xffff);
	packet->tcp_flags = forget(packet->tcp_flags, packet->ip, 0xff);
	packet->is_icmp_error = forget(packet->is_icmp_error, packet->ip, 1);
	packet->is_fragment = forget(packet->is_fragment, packet->ip, 1);
	packet->is_echo = forget(packet->is_echo, packet->ip, 1);
	if (packet->udp)
		packet->udp =
		    packet->ip + forget((void *)packet->udp - packet->ip, packet->ip, 0x3fff);
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

	packet->payload = (void *)ip + header;
	if (unlikely(ip->frag_off & htons(IPV4_FRAGMENT)))
		return join(parse_fragment(ip->protocol, packet), packet);
	if (likely(ip->protocol == IPPROTO_TCP))
		return parse_tcp(packet->payload, end, packet->length - header, packet);
	if (ip->protocol == IPPROTO_UDP)
		return join(parse_udp(packet->payload, end, packet->length - header, packet),
			    packet);
	if (ip->protocol == IPPROTO_ICMP)
		return join(parse_icmp(packet->payload, end, packet->length - header, packet),
			    packet);
	return COUNT_other_protocol;
}

/* The packet has extension headers, or something else than TCP right behind its IP header. */
static __always_inline int parse_ipv6_payload(struct ipv6hdr *ip, void *end, struct packet *packet)
{
	struct upper_layer upper;
	__u32 length;
	int result;

	result = skip_extensions(ip, end, false, &upper);
	if (result != PARSED)
		return result;
	if (upper.offset > packet->length)
		return COUNT_truncated;
	length = packet->length - upper.offset;
	packet->payload = (void *)ip + upper.offset;
	if (upper.is_fragment)
		return parse_fragment(upper.protocol, packet);
	switch (upper.protocol) {
	case IPPROTO_TCP:
		return parse_tcp(packet->payload, end, length, packet);
	case IPPROTO_UDP:
		return parse_udp(packet->payload, end, length, packet);
	case IPPROTO_ICMPV6:
		return parse_icmpv6(packet->payload, end, length, packet);
	default:
		return COUNT_other_protocol;
	}
}

static __always_inline int parse_ipv6(struct ipv6hdr *ip, void *end, struct packet *packet)
{
	__u32 payload;

	if ((void *)(ip + 1) > end)
		return NOT_IP;
	packet->is_ipv6 = 1;
	packet->traffic_class = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	copy_address(packet->flow.client, ip->saddr.in6_u.u6_addr32);
	copy_address(packet->flow.service.address, ip->daddr.in6_u.u6_addr32);

	payload = ntohs(ip->payload_len);
	if (ip->version != 6)
		return COUNT_bad_ip_header;
	/* Without a payload only a jumbogram (RFC 2675) could be meant, and no link here has any.
	 */
	if (!payload || payload > 0xffff - sizeof(*ip) || (void *)(ip + 1) + payload > end)
		return COUNT_bad_ip_length;
	packet->length = sizeof(*ip) + payload;

	if (likely(ip->nexthdr == IPPROTO_TCP)) {
		packet->payload = ip + 1;
		return parse_tcp(ip + 1, end, payload, packet);
	}
	return join(parse_ipv6_payload(ip, end, packet), packet);
}

/* Reads the IP packet at `ip`. `packet` must be zero. */
static __always_inline int parse_ip(void *ip, void *end, __be16 ethertype, struct packet *packet)
{
	packet->ip = ip;
	if (likely(ethertype == htons(ETH_P_IP)))
		return parse_ipv4(ip, end, packet);
	if (ethertype == htons(ETH_P_IPV6))
		return parse_ipv6(ip, end, packet);
	return NOT_IP;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the parser tells about a packet. */
#ifndef EDGE_PACKET_H
#define EDGE_PACKET_H

#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "counters.h"
#include "flow.h"

/*
 * How parsing ended. Any other result is the counter that names what was wrong or foreign: the
 * destination address is known then, the ports may not be.
 */
enum {
	PARSED = -1,
	NOT_IP = -2, /* nothing that these programs know or could name: for the kernel */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_ALL 0x3f /* FIN, SYN, RST, PSH, ACK, URG (RFC 9293 section 3.1) */

#define IPV4_FRAGMENT 0x3fff /* "more fragments", or an offset */
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define DSCP_MASK 0xfc

struct packet {
	void *ip;
	void *payload;	    /* what follows IP, its options and its extension headers */
	struct tcphdr *tcp; /* the payload of TCP that is no fragment, else NULL */
	struct udphdr *udp; /* the same of UDP */
	struct flow flow;
	__u16 length; /* of the IP packet, as its header claims and the frame can hold */
	__u8 is_ipv6;
	__u8 traffic_class; /* IPv4: type of service */
	__u8 vlan_tags;	    /* between Ethernet and IP */
	__u8 tcp_flags;
	__u8 is_icmp_error; /* `flow` is then that of the packet it quotes */
	__u8 is_echo; /* an ICMP echo request: `payload` is its header, 8 octets long at least */
	__u8 is_fragment; /* ports are then 0, of the first fragment as well */
};

static __always_inline bool is_syn(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

#endif

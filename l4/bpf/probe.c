// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The way of the L4 node's own probes: what its prober sends to a VIP, with a mark that names a
 * member, goes to that member as clients' packets do. A classifier on the interface's way out,
 * since these packets never come in, where XDP would see them. Loaded by l4/probes/program.py,
 * beside the balancer and on its maps.
 */
#include <uapi/linux/bpf.h>

#include "balancer_maps.h"
#include "ethernet.h"
#include "gue.h"
#include "members.h"
#include "outer_ip.h"

/* A mark's upper half, less its lowest bits, which are the encapsulation's. The lower half is the
 * member's id. The same in Python: l4/probes/mark.py. */
#define PROBE_MAGIC 0xed60
#define PROBE_ENCAPSULATION 0x3

/* uapi/linux/pkt_cls.h, which brings in more than is good. */
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_OK 0
#define TC_ACT_SHOT 2

#define ADDRESS_FAMILY_IPV4 2 /* AF_INET */
#define ADDRESS_FAMILY_IPV6 10

/* What became of probes' packets, by l4/probes/program.py's names. */
enum probe_outcome {
	PROBE_SENT,
	PROBE_NO_SETTINGS,
	PROBE_MEMBER_UNKNOWN,
	PROBE_NO_SOURCE,
	PROBE_NO_MAC,
	PROBE_NO_ROUTE,
	PROBE_NOT_IP,
	PROBE_NO_ROOM,
	PROBE_OUTCOMES,
};

BPF_TABLE("percpu_array", __u32, __u64, probe_outcomes, PROBE_OUTCOMES);

struct outer {
	union {
		struct outer_v4 v4;
		struct outer_v6 v6;
	};
};

static __always_inline int finish(__u32 outcome)
{
	__u64 *value = probe_outcomes.lookup(&outcome);

	if (value)
		*value += 1;
	return outcome == PROBE_SENT ? TC_ACT_OK : TC_ACT_SHOT;
}

/* As far as an outer header must know it. The kernel made this packet: there is nothing to distrust
 * but the frame's kind. */
static __always_inline bool read_inner(struct __sk_buff *skb, struct packet *packet)
{
	struct ethernet *ethernet;
	struct ipv6hdr *v6;
	struct iphdr *v4;
	void *end;

	if (bpf_skb_pull_data(skb, sizeof(*ethernet) + sizeof(*v6)))
		return false;
	ethernet = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	v6 = (void *)(ethernet + 1);
	v4 = (void *)(ethernet + 1);
	if ((void *)(v6 + 1) > end)
		return false;
	packet->is_ipv6 = ethernet->type == htons(ETH_P_IPV6);
	if (packet->is_ipv6) {
		packet->length = sizeof(*v6) + ntohs(v6->payload_len);
		packet->traffic_class = v6->priority << 4 | v6->flow_lbl[0] >> 4;
		return true;
	}
	packet->length = ntohs(v4->tot_len);
	packet->traffic_class = v4->tos;
	return ethernet->type == htons(ETH_P_IP);
}

/* A chain of nobody else: the answer must be this member's own. */
static __always_inline void write_gue_without_chain(struct udphdr *udp, const struct packet *packet,
						    const struct balancer_settings *node,
						    __u32 hash)
{
	struct gue *gue = (void *)(udp + 1);

	udp->source = htons(GUE_SOURCE_PORT_BASE | (hash & GUE_SOURCE_PORT_MASK));
	udp->dest = htons(GUE_PORT);
	udp->len = htons(packet->length + sizeof(*udp) + sizeof(*gue));
	gue->variant_control_hlen = GUE_HLEN;
	gue->protocol = inner_protocol(packet);
	gue->version = CHAIN_VERSION;
	gue->l4_node = htons(node->node_id);
}

/*
 * Makes room and fills it. The kernel is told that this is a tunnel: so it knows where the inner
 * packet begins, whose checksum it finishes after this, unless the device does (net/core/dev.c,
 * validate_xmit_skb).
 */
static __always_inline __u32 encapsulate(struct __sk_buff *skb, const struct packet *packet,
					 const struct balancer_settings *node,
					 const struct member *member, const bool is_gue,
					 const bool over_ipv6)
{
	const __u32 header = over_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 octets =
	    is_gue ? (over_ipv6 ? sizeof(struct outer_v6) : sizeof(struct outer_v4)) : header;
	const __u64 flags =
	    (over_ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) |
	    (is_gue ? BPF_F_ADJ_ROOM_ENCAP_L4_UDP : 0);
	__be16 type = over_ipv6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	__u8 protocol = is_gue ? IPPROTO_UDP : inner_protocol(packet);
	__u32 hash = bpf_get_hash_recalc(skb);
	struct outer outer = {};

	if (over_ipv6) {
		write_outer_ipv6(&outer.v6.ip, packet, node, member, protocol,
				 packet->length + octets - header, (__u64)hash << 32);
		if (is_gue)
			write_gue_without_chain(&outer.v6.udp, packet, node, hash);
	} else {
		write_outer_ipv4(&outer.v4.ip, packet, node, member, protocol,
				 packet->length + octets);
		if (is_gue)
			write_gue_without_chain(&outer.v4.udp, packet, node, hash);
	}
	if (bpf_skb_adjust_room(skb, octets, BPF_ADJ_ROOM_MAC, flags) ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethernet), &outer, octets, 0) ||
	    bpf_skb_store_bytes(skb, offsetof(struct ethernet, type), &type, sizeof(type), 0))
		return PROBE_NO_ROOM;
	return PROBE_SENT;
}

static __always_inline __u32 wrap(struct __sk_buff *skb, const struct packet *packet,
				  const struct balancer_settings *node, const struct member *member,
				  const bool is_gue)
{
	const __be32 *v6 = node->source_v6;

	if (member->flags & MEMBER_IPV6) {
		if (!(v6[0] | v6[1] | v6[2] | v6[3]))
			return PROBE_NO_SOURCE;
		return encapsulate(skb, packet, node, member, is_gue, true);
	}
	if (!node->source_v4)
		return PROBE_NO_SOURCE;
	return encapsulate(skb, packet, node, member, is_gue, false);
}

/* To the member's own Ethernet address, as both are in one segment. */
static __always_inline __u32 address_link(struct __sk_buff *skb, const struct member *member)
{
	if (!(member->mac[0] | member->mac[1] | member->mac[2]))
		return PROBE_NO_MAC;
	if (bpf_skb_store_bytes(skb, offsetof(struct ethernet, destination), (void *)member->mac,
				sizeof(member->mac), 0))
		return PROBE_NO_ROOM;
	return PROBE_SENT;
}

/* The way that the balancer asks the kernel for, if it does (NODE_FIB); else that of the router
 * which the kernel has chosen for the VIP. */
static __always_inline int leave(struct __sk_buff *skb, const struct balancer_settings *node,
				 const struct member *member)
{
	struct bpf_fib_lookup fib = {};
	__u16 addresses[2 * MAC_UNITS];

	if (!(node->flags & NODE_FIB))
		return finish(PROBE_SENT);
	fib.ifindex = skb->ifindex;
	if (member->flags & MEMBER_IPV6) {
		fib.family = ADDRESS_FAMILY_IPV6;
		__builtin_memcpy(fib.ipv6_src, node->source_v6, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, member->address, sizeof(fib.ipv6_dst));
	} else {
		fib.family = ADDRESS_FAMILY_IPV4;
		fib.ipv4_src = node->source_v4;
		fib.ipv4_dst = member->address[3];
	}
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return finish(PROBE_NO_ROUTE);
	__builtin_memcpy(addresses, fib.dmac, sizeof(fib.dmac));
	__builtin_memcpy(addresses + MAC_UNITS, fib.smac, sizeof(fib.smac));
	if (bpf_skb_store_bytes(skb, 0, addresses, sizeof(addresses), 0))
		return finish(PROBE_NO_ROOM);
	finish(PROBE_SENT);
	return fib.ifindex == skb->ifindex ? TC_ACT_OK : bpf_redirect(fib.ifindex, 0);
}

int edge_probe(struct __sk_buff *skb)
{
	__u32 mark = skb->mark, outcome, encapsulation = mark >> 16 & PROBE_ENCAPSULATION;
	struct balancer_settings *node;
	struct packet packet = {};
	struct member *member;

	/* 1. A probe's packet? All others are left to other classifiers. */
	if ((mark >> 16 & ~PROBE_ENCAPSULATION) != PROBE_MAGIC)
		return TC_ACT_UNSPEC;
	skb->mark = 0; /* so that it is wrapped once, whichever way it goes on */

	/* 2. To whom? Whether the member is live is what the probe is to find out. */
	node = find_settings();
	if (!node)
		return finish(PROBE_NO_SETTINGS);
	member = find_member(mark);
	if (!member)
		return finish(PROBE_MEMBER_UNKNOWN);

	/* 3. As the balancer sends to this member's pool. */
	if (encapsulation == REWRITE_L2)
		return finish(address_link(skb, member));
	if (!read_inner(skb, &packet))
		return finish(PROBE_NOT_IP);
	outcome = encapsulation == ENCAPSULATE_GUE ? wrap(skb, &packet, node, member, true)
						   : wrap(skb, &packet, node, member, false);
	if (outcome != PROBE_SENT)
		return finish(outcome);
	return leave(skb, node, member);
}

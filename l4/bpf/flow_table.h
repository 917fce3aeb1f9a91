/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow state for UDP, and for VIPs whose members run no redirector: nothing could give their
 * packets a second chance, so a change of the table must not move a flow. TCP to pools with
 * redirectors never comes here.
 */
#ifndef EDGE_FLOW_TABLE_H
#define EDGE_FLOW_TABLE_H

#include <uapi/linux/in.h>

#include "forwarding.h"
#include "guard_limits.h"

#ifndef FLOW_TABLE_ENTRIES	  /* a rehearsal needs fewer: l4/rehearsal.py */
#define FLOW_TABLE_ENTRIES 262144 /* of each family; the oldest flows make room for new ones */
#endif

/* A UDP flow that was silent for so long has ended: 5 minutes, as RFC 4787 REQ-5 has it of NAT. */
#define UDP_IDLE_S 300

#define NANOSECONDS 1000000000ULL

struct flow_owner {
	__u16 id; /* of the member */
	__u16 zero;
	__u32 last_seen; /* seconds, CLOCK_MONOTONIC; of UDP, which has no other end than silence */
};

/* About 20 and 30 MB. Each CPU evicts from a list of its own, and sees the entries of all: a flow
 * that moves to another receive queue keeps its member. */
BPF_TABLE_PINNED("lru_hash", struct ipv4_flow, struct flow_owner, flow_table_ipv4,
		 FLOW_TABLE_ENTRIES, PIN(flow_table_ipv4), BPF_F_NO_COMMON_LRU);
BPF_TABLE_PINNED("lru_hash", struct flow, struct flow_owner, flow_table_ipv6, FLOW_TABLE_ENTRIES,
		 PIN(flow_table_ipv6), BPF_F_NO_COMMON_LRU);

/* The keys are copies, so that the packet itself can be kept in registers. */
static __always_inline struct flow_owner *find_remembered(const struct packet *packet)
{
	struct ipv4_flow shortened;
	struct flow flow;

	if (packet->is_ipv6) {
		flow = packet->flow;
		return flow_table_ipv6.lookup(&flow);
	}
	shortened = shorten(&packet->flow);
	return flow_table_ipv4.lookup(&shortened);
}

static __always_inline void remember(const struct packet *packet, struct flow_owner *owner)
{
	struct ipv4_flow shortened;
	struct flow flow;

	if (packet->is_ipv6) {
		flow = packet->flow;
		flow_table_ipv6.update(&flow, owner);
		return;
	}
	shortened = shorten(&packet->flow);
	flow_table_ipv4.update(&shortened, owner);
}

/* Of the timer's last tick: cheap, and exact enough for minutes. */
static __always_inline __u32 now_s(void)
{
	return bpf_ktime_get_coarse_ns() / NANOSECONDS;
}

/* Is this UDP, and at its end? If not, and this is its client speaking, it is young again. */
static __always_inline bool has_expired(struct flow_owner *owner, const struct packet *packet)
{
	__u32 now;

	if (packet->flow.service.protocol != IPPROTO_UDP)
		return false;
	now = now_s();
	if (now - owner->last_seen > UDP_IDLE_S)
		return true;
	/* Not at every packet: the entry's cache line is shared by all CPUs. */
	if (now != owner->last_seen && !packet->is_icmp_error)
		owner->last_seen = now;
	return false;
}

/* Finds where an open flow went before. A flow that is new, forgotten, or whose member is not live
 * has to ask its row. */
static __always_inline void recall_flow(const struct packet *packet, struct route *route)
{
	struct flow_owner *owner;
	struct member *member;

	if (is_syn(packet))
		return;
	owner = find_remembered(packet);
	member = owner && !has_expired(owner, packet) ? find_member(owner->id) : NULL;
	if (likely(member && (member->flags & MEMBER_LIVE)))
		take_owner(owner->id, member, route);
	else
		count(COUNT_flow_table_misses);
}

/*
 * Of TCP, flows that began elsewhere are remembered as well: they came here because another node
 * failed, and are to survive the next change of the table, too. What ends a flow, or is only about
 * it, begins none.
 */
static __always_inline void remember_flow(const struct packet *packet, const struct vip *vip,
					  const struct route *route)
{
	struct flow_owner owner = {.id = route->owner};

	if (packet->is_icmp_error || (packet->tcp_flags & (TCP_FIN | TCP_RST)))
		return;
	if (!is_syn(packet) && !new_flow_admitted(vip->id))
		return;
	if (packet->flow.service.protocol == IPPROTO_UDP)
		owner.last_seen = now_s();
	remember(packet, &owner);
}

#endif

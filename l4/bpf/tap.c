// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The tap: copies packets that the balancer has finished with into a ring buffer, while somebody
 * captures. Loaded by l4/tap.py for each capture anew, and called by the balancer in the place of
 * its own end. Whatever happens to the agent, the plan's deadline ends the copying.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

#include "flow.h"
#include "link.h"
#include "tap_note.h"

#define MAX_SNAP_LENGTH 2048
#define WORD 8

/* What to copy. The same in Python: l4/tap_records.py. */
struct tap_plan {
	__u64 deadline; /* nanoseconds, CLOCK_MONOTONIC */
	__u64 packets;	/* as many at most */
	__be32 network[4];
	__be32 mask[4]; /* the VIP's addresses: for packets whose VIP could not be told */
	__u32 vip_id;
	__u32 sample; /* one in so many, at random */
	__u32 snap_length;
	__u32 drops_only;
};

BPF_TABLE("array", __u32, struct tap_plan, tap_plan, 1);

/* What came of it. */
struct tap_counts {
	__u64 seen;  /* packets that the plan is about, sampled or not */
	__u64 taken; /* of these, copied, or lost */
	__u64 lost;  /* the ring buffer was full */
};

BPF_TABLE("array", __u32, struct tap_counts, tap_counts, 1);

struct tap_record {
	__u64 at; /* nanoseconds, CLOCK_MONOTONIC */
	struct tap_note note;
	__u32 length; /* of the frame */
	__u32 kept;   /* octets that follow */
	__u8 octets[MAX_SNAP_LENGTH];
};

#define RECORD_HEAD offsetof(struct tap_record, octets)

BPF_TABLE("percpu_array", __u32, struct tap_record, tap_scratch, 1);
BPF_RINGBUF_OUTPUT(tap_ring, RING_PAGES);

/* Whether the frame is for one of the VIP's addresses; or, if the balancer answers, from one. */
static __always_inline bool is_of_network(struct xdp_md *ctx, const struct tap_plan *plan,
					  bool is_answer)
{
	void *end = (void *)(long)ctx->data_end;
	struct link link;
	__be32 address[4] WORD_ALIGNED;

	if (!read_link((void *)(long)ctx->data, end, &link))
		return false;
	if (link.type == htons(ETH_P_IP)) {
		struct iphdr *ip = link.payload;

		if ((void *)(ip + 1) > end)
			return false;
		map_ipv4(address, is_answer ? ip->saddr : ip->daddr);
	} else if (link.type == htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = link.payload;

		if ((void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(address, is_answer ? &ip->saddr : &ip->daddr, sizeof(address));
	} else {
		return false;
	}
	return !(((address[0] & plan->mask[0]) ^ plan->network[0]) |
		 ((address[1] & plan->mask[1]) ^ plan->network[1]) |
		 ((address[2] & plan->mask[2]) ^ plan->network[2]) |
		 ((address[3] & plan->mask[3]) ^ plan->network[3]));
}

static __always_inline bool is_planned(struct xdp_md *ctx, const struct tap_plan *plan,
				       const struct tap_note *note)
{
	if (plan->drops_only && note->verdict != XDP_DROP && note->verdict != XDP_ABORTED)
		return false;
	return note->vip_id ? note->vip_id == plan->vip_id
			    : is_of_network(ctx, plan, note->verdict == XDP_TX);
}

/* Copies up to `wanted` octets from the frame's start: words, and a last word that may overlap the
 * one before. Frames have more octets than a word. bpf_xdp_load_bytes would do, from Linux 5.18. */
static __always_inline __u32 copy(struct xdp_md *ctx, __u8 *octets, __u32 wanted)
{
	void *frame = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 last;

	for (__u32 at = 0; at < MAX_SNAP_LENGTH; at += WORD) {
		if (at + WORD > wanted || frame + at + WORD > end)
			break;
		*(__u64 *)(octets + at) = *(__u64 *)(frame + at);
	}
	last = wanted - WORD;
	if (last > MAX_SNAP_LENGTH - WORD || frame + last + WORD > end)
		return 0;
	*(__u64 *)(octets + last) = *(__u64 *)(frame + last);
	return wanted;
}

int edge_tap(struct xdp_md *ctx)
{
	__u32 zero = 0, length = ctx->data_end - ctx->data;
	struct tap_record *record;
	struct tap_counts *counts;
	struct tap_note *note;
	struct tap_plan *plan;
	__u32 kept;

	note = tap_note.lookup(&zero);
	plan = tap_plan.lookup(&zero);
	counts = tap_counts.lookup(&zero);
	record = tap_scratch.lookup(&zero);
	if (!note)
		return XDP_ABORTED; /* cannot be: an array has its entries */
	if (!plan || !counts || !record)
		return note->verdict;

	if (!is_planned(ctx, plan, note) || bpf_ktime_get_ns() > plan->deadline)
		return note->verdict;
	__sync_fetch_and_add(&counts->seen, 1);
	if (plan->sample > 1 && bpf_get_prandom_u32() % plan->sample)
		return note->verdict;
	if (counts->taken >= plan->packets)
		return note->verdict;
	__sync_fetch_and_add(&counts->taken, 1);

	kept = length < plan->snap_length ? length : plan->snap_length;
	kept = copy(ctx, record->octets, kept);
	record->at = bpf_ktime_get_ns();
	record->note = *note;
	record->length = length;
	record->kept = kept;
	/* The verifier must hear the bound once more, and the compiler knows it already. */
	asm volatile("" : "+r"(kept));
	/* Without waking a reader: it looks by itself, and an interrupt for each packet would cost
	 * the traffic. */
	if (kept > MAX_SNAP_LENGTH ||
	    tap_ring.ringbuf_output(record, RECORD_HEAD + kept, BPF_RB_NO_WAKEUP))
		__sync_fetch_and_add(&counts->lost, 1);
	return note->verdict;
}

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The balancer's end of the tap: what it knows about a packet that it has finished with, left for
 * tap.c, which copies it while somebody captures. Nobody captures most of the time: then all that
 * this costs is one bit of the settings, which are at hand.
 */
#ifndef EDGE_TAP_H
#define EDGE_TAP_H

#include "forwarding.h"
#include "outcome.h"
#include "tap_note.h"

/* Whether what is finished with is to be noted. A rehearsal (l4/rehearsal.py) reads the note of its
 * packet, and has nobody who captures. */
static __always_inline bool is_tapped(const struct balancer_settings *node)
{
#ifdef REHEARSAL
	return true;
#else
	return node->flags & NODE_TAP;
#endif
}

/* Hands the packet to tap.c, which returns the verdict in the balancer's place. Comes back if there
 * is none. */
static __always_inline void show(struct xdp_md *ctx, const struct tap_note *finished)
{
	struct tap_note *note;
	__u32 zero = 0;

	note = tap_note.lookup(&zero);
	if (!note)
		return;
	*note = *finished;
	tap_programs.call(ctx, zero);
}

static __always_inline void show_forwarded(struct xdp_md *ctx, int verdict, const struct vip *vip,
					   const struct route *route, __u64 hash)
{
	struct tap_note note = {
	    .hash = hash,
	    .rest = route->rest,
	    .vip_id = vip->id,
	    .owner = route->owner,
	    .verdict = verdict,
	};

	show(ctx, &note);
}

static __always_inline void show_outcome(struct xdp_md *ctx, __u32 outcome)
{
	struct tap_note note = {
	    .vip_id = outcome >> OUTCOME_VIP,
	    .verdict = verdict_of(outcome),
	    .reason = outcome >> OUTCOME_REASON,
	};

	show(ctx, &note);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What passes between the balancer and the tap, and how one calls the other. */
#ifndef EDGE_TAP_NOTE_H
#define EDGE_TAP_NOTE_H

#include <uapi/linux/types.h>

#include "pin.h"

/* The same in Python: l4/tap_records.py. */
struct tap_note {
	__u64 hash;   /* of the flow; 0: not forwarded */
	__u64 rest;   /* the chain behind the owner, as in a row */
	__u32 vip_id; /* 0: it could not be told */
	__u16 owner;  /* 0: not forwarded */
	__u8 verdict; /* enum xdp_action */
	__u8 reason;  /* 1 + the counter that says why it was not forwarded; 0: it was */
};

/* One entry for each CPU: a packet and its tail call stay on one. */
BPF_TABLE_PINNED("percpu_array", __u32, struct tap_note, tap_note, 1, PIN(tap_note));

/* Empty while nobody captures. A tail call, so that the copying weighs nothing on the balancer. */
BPF_TABLE_PINNED("prog", __u32, __u32, tap_programs, 1, PIN(tap_programs));

#endif

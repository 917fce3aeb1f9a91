/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What became of a packet, in one number: the verdict in its lowest octet; and for what was not
 * forwarded, for the tap, above it 1 + the counter that says why, and the VIP's identifier.
 */
#ifndef EDGE_OUTCOME_H
#define EDGE_OUTCOME_H

#include <uapi/linux/types.h>

#define OUTCOME_REASON 8
#define OUTCOME_VIP 16
#define OUTCOME_OCTET 0xff

/* `vip_id` is 0 where the VIP is not known. */
static __always_inline int because(__u32 verdict, __u32 counter, __u32 vip_id)
{
	return verdict | (counter + 1) << OUTCOME_REASON | vip_id << OUTCOME_VIP;
}

static __always_inline int verdict_of(__u32 outcome)
{
	return outcome & OUTCOME_OCTET;
}

static __always_inline bool has_reason(__u32 outcome)
{
	return outcome > OUTCOME_OCTET;
}

#endif

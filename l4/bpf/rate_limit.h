/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A rate limit in one number: the generic cell rate algorithm (ITU-T I.371, virtual scheduling), a
 * token bucket that keeps the time at which it would be full again.
 */
#ifndef EDGE_RATE_LIMIT_H
#define EDGE_RATE_LIMIT_H

#include <uapi/linux/types.h>

#define NS_PER_S 1000000000ULL

/* Takes a token, of which there is one more each `interval` ns and never more than fit into
 * `depth` ns. False if there was none. */
static __always_inline bool take_token(__u64 *full_at, __u64 now, __u64 interval, __u64 depth)
{
	__u64 at = *full_at > now ? *full_at : now;

	if (at + interval > now + depth)
		return false;
	*full_at = at + interval;
	return true;
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Passes every frame. Its presence is the point: a veth end receives frames
 * that its peer sent by XDP_TX only once it has an XDP program of its own.
 *
 * Needs no kernel headers: XDP_PASS is 2 (linux/bpf.h, enum xdp_action).
 */

#define XDP_PASS 2

__attribute__((section("xdp"), used)) int pass(void *context)
{
	(void)context;
	return XDP_PASS;
}

char _license[] __attribute__((section("license"), used)) = "GPL";

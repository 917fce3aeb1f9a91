/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel's verifier walks each way through a program with all that it knows there, and joins
 * two ways only where it knows the same. A parser has a hundred ways, each with constants of its
 * own; what follows would be walked a hundred times, and the verifier gives up after a million
 * steps.
 */
#ifndef EDGE_VERIFIER_H
#define EDGE_VERIFIER_H

#include <uapi/linux/types.h>

/*
 * `number` itself, of which the verifier has forgotten everything but that it is at most `mask`, of
 * the form 2^n - 1. By way of a distance in the packet that holds `pointer`: distances are nothing
 * that it reckons with. `number` is bounded, as what is added to such a pointer must be.
 */
static __always_inline __u32 forget(__u32 number, void *pointer, const __u32 mask)
{
	void *moved = pointer + number;

	asm volatile("" : "+r"(moved));
	return (__u32)(moved - pointer) & mask;
}

#endif

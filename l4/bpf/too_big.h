/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * "Too big", said from the VIP's address, as if the VIP were behind a link that is narrower by the
 * encapsulation: ICMP "fragmentation needed" (RFC 792, RFC 1191) and ICMPv6 "packet too big" (RFC
 * 4443, RFC 8201). The client's TCP then sends smaller segments.
 */
#ifndef EDGE_TOO_BIG_H
#define EDGE_TOO_BIG_H

#include <uapi/linux/icmp.h>
#include <uapi/linux/icmpv6.h>

#include "answer.h"
#include "checksum.h"
#include "egress.h"

/* As much of the packet as makes 576 octets (RFC 1812 section 4.3.2.3) or IPv6's minimum MTU (RFC
 * 4443 section 3.2). What does not fit is larger than that, on any link that can carry IPv6. */
#define IPV4_ERROR_SIZE 576
#define IPV6_MINIMUM_MTU 1280
#define IPV4_QUOTE (IPV4_ERROR_SIZE - sizeof(struct iphdr) - sizeof(struct icmphdr))
#define IPV6_QUOTE (IPV6_MINIMUM_MTU - sizeof(struct ipv6hdr) - sizeof(struct icmp6hdr))

#define CHECKSUM_PIECE 512 /* the most that bpf_csum_diff takes at once before Linux 6.14 */

/* "Internetwork control", the precedence of ICMP errors (RFC 1812 section 4.3.2.5). */
#define ERROR_TRAFFIC_CLASS 0xc0

/* The sum over `size` octets, a constant multiple of four, which the frame must hold. */
static __always_inline __u64 sum_up(void *start, const __u32 size, __u32 sum)
{
#pragma unroll
	for (__u32 done = 0; done < size; done += CHECKSUM_PIECE) {
		__u32 piece = size - done < CHECKSUM_PIECE ? size - done : CHECKSUM_PIECE;

		sum = bpf_csum_diff(NULL, 0, start + done, piece, sum);
	}
	return sum;
}

/* Errors are not answered by errors, nor are other fragments than the first, nor what nobody sent
 * (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4). */
static __always_inline bool is_answerable(const struct packet *packet, const void *end)
{
	const struct iphdr *ip = packet->ip;

	if (packet->is_icmp_error || !is_host_address(packet->flow.client, packet->is_ipv6))
		return false;
	if (packet->is_ipv6)
		return true;
	return (const void *)(ip + 1) <= end && packet->length >= IPV4_QUOTE &&
	       !(ip->frag_off & htons(IPV4_FRAGMENT_OFFSET));
}

/* Cuts the frame behind what is quoted, and makes room in front. Returns what stands behind the
 * link header, which leads back to the sender. */
static __always_inline void *make_quote(struct xdp_md *ctx, const struct packet *packet,
					const __u32 quote, const __u32 headers)
{
	__u32 link = sizeof(struct ethernet) + packet->vlan_tags * sizeof(struct vlan_tag);
	int frame = (long)ctx->data_end - (long)ctx->data;

	if (bpf_xdp_adjust_tail(ctx, (int)(link + quote) - frame) ||
	    bpf_xdp_adjust_head(ctx, -(int)headers))
		return NULL;
	return move_link(ctx, packet->vlan_tags, headers, 0);
}

static __always_inline int answer_fragmentation_needed(struct xdp_md *ctx,
						       const struct packet *packet, __u16 mtu)
{
	const __u32 headers = sizeof(struct iphdr) + sizeof(struct icmphdr);
	struct iphdr *ip = make_quote(ctx, packet, IPV4_QUOTE, headers);
	struct icmphdr *icmp = (void *)(ip + 1);

	if (!ip || (void *)ip + IPV4_ERROR_SIZE > (void *)(long)ctx->data_end)
		return -1;
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = ERROR_TRAFFIC_CLASS;
	ip->tot_len = htons(IPV4_ERROR_SIZE);
	ip->id = 0;
	ip->frag_off = htons(IPV4_DONT_FRAGMENT);
	ip->ttl = ANSWER_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->check = 0;
	ip->saddr = packet->flow.service.address[3];
	ip->daddr = packet->flow.client[3];
	ip->check = ipv4_checksum(ip);

	icmp->type = ICMP_DEST_UNREACH;
	icmp->code = ICMP_FRAG_NEEDED;
	icmp->checksum = 0;
	icmp->un.frag.__unused = 0;
	icmp->un.frag.mtu = htons(mtu);
	icmp->checksum = fold_checksum(sum_up(icmp, sizeof(*icmp) + IPV4_QUOTE, 0));
	return 0;
}

static __always_inline int answer_packet_too_big(struct xdp_md *ctx, const struct packet *packet,
						 __u16 mtu)
{
	const __u32 headers = sizeof(struct ipv6hdr) + sizeof(struct icmp6hdr);
	const __u32 payload = sizeof(struct icmp6hdr) + IPV6_QUOTE;
	struct ipv6hdr *ip = make_quote(ctx, packet, IPV6_QUOTE, headers);
	struct icmp6hdr *icmp = (void *)(ip + 1);
	__be32 *words = (__be32 *)ip;
	__u64 sum;

	if (!ip || (void *)ip + IPV6_MINIMUM_MTU > (void *)(long)ctx->data_end)
		return -1;
	words[0] = htonl(6U << 28 | ERROR_TRAFFIC_CLASS << 20);
	words[1] = htonl(payload << 16 | IPPROTO_ICMPV6 << 8 | ANSWER_TTL);
	__builtin_memcpy(&ip->saddr, packet->flow.service.address, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, packet->flow.client, sizeof(ip->daddr));

	icmp->icmp6_type = ICMPV6_PKT_TOOBIG;
	icmp->icmp6_code = 0;
	icmp->icmp6_cksum = 0;
	icmp->icmp6_mtu = htonl(mtu);
	sum = sum_up(&ip->saddr, 2 * sizeof(ip->saddr) + sizeof(*icmp) + IPV6_QUOTE, 0);
	sum += htonl(payload) + (__u64)htonl(IPPROTO_ICMPV6); /* RFC 8200 section 8.1 */
	icmp->icmp6_cksum = fold_checksum(sum);
	return 0;
}

/*
 * Answers a packet of which the way on takes no more than `mtu` octets, and drops it. Returns the
 * outcome. IPv6 hosts take no word about less than their minimum MTU (RFC 8201 section 4): such an
 * underlay cannot carry IPv6 at all.
 */
static __always_inline int answer_too_big(struct xdp_md *ctx, const struct packet *packet,
					  __u32 vip_id, __u32 mtu)
{
	int failed;

	if (!is_answerable(packet, (void *)(long)ctx->data_end) ||
	    (packet->is_ipv6 && mtu < IPV6_MINIMUM_MTU))
		return answered(XDP_DROP, COUNT_too_big_unanswerable, vip_id);
	if (!may_answer(ANSWER_TOO_BIG, TOO_BIG_PER_SECOND, TOO_BIG_BURST))
		return answered(XDP_DROP, COUNT_too_big_limited, vip_id);
	failed = packet->is_ipv6 ? answer_packet_too_big(ctx, packet, mtu)
				 : answer_fragmentation_needed(ctx, packet, mtu);
	if (failed)
		return answered(XDP_DROP, COUNT_no_room, vip_id);
	return answered(XDP_TX, COUNT_too_big_answered, vip_id);
}

#endif

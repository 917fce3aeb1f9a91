// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What packets are measured against: nothing at all, a bare encapsulation, and the least that a
 * balancer with flow state does for a packet of an open flow (parse, find the VIP, find the flow,
 * count, IP in IP).
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/tcp.h>

#define DESTINATION 0x0b0212c6 /* 198.18.2.11, in network byte order */
#define SOURCE 0x0b0112c6      /* 198.18.1.11 */
#define FLOWS 262144

struct vip_key {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct vip_value {
	__u32 id;
	__u32 flags;
};

struct flow_key {
	__be32 client;
	__be32 service;
	__be16 client_port;
	__be16 service_port;
	__u8 protocol;
	__u8 zero[3];
};

struct owner {
	__be32 address;
	__u32 id;
};

struct traffic {
	__u64 packets;
	__u64 bytes;
};

BPF_TABLE("hash", struct vip_key, struct vip_value, vips, 1024);
BPF_TABLE("lru_percpu_hash", struct flow_key, __u32, flows, FLOWS);
BPF_TABLE("array", __u32, struct owner, owners, 4096);
BPF_TABLE("percpu_array", __u32, struct traffic, vip_traffic, 1024);
BPF_TABLE("percpu_array", __u32, struct traffic, owner_traffic, 4096);

static __always_inline __u16 sum_of(const struct iphdr *ip)
{
	const __u16 *half = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < (int)sizeof(*ip) / 2; i++)
		sum += half[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int put_ip_before(struct xdp_md *ctx, __u16 length, __be32 destination)
{
	struct ethhdr *old, *new, copy;
	struct iphdr *ip;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return XDP_DROP;
	new = (void *)(long)ctx->data;
	ip = (void *)(new + 1);
	old = (void *)new + sizeof(*ip);
	if ((void *)(old + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	copy = *old;
	__builtin_memcpy(new->h_dest, copy.h_source, ETH_ALEN);
	__builtin_memcpy(new->h_source, copy.h_dest, ETH_ALEN);
	new->h_proto = htons(ETH_P_IP);
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = 0;
	ip->tot_len = htons(length + sizeof(*ip));
	ip->id = 0;
	ip->frag_off = htons(0x4000);
	ip->ttl = 64;
	ip->protocol = IPPROTO_IPIP;
	ip->check = 0;
	ip->saddr = SOURCE;
	ip->daddr = destination;
	ip->check = sum_of(ip);
	return XDP_TX;
}

int bench_empty(struct xdp_md *ctx)
{
	return XDP_TX;
}

int bench_encap(struct xdp_md *ctx)
{
	return put_ip_before(ctx, (void *)(long)ctx->data_end - (void *)(long)ctx->data - ETH_HLEN,
			     DESTINATION);
}

int bench_reference(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	struct vip_key service = {};
	struct flow_key flow = {};
	struct vip_value *vip;
	struct traffic *traffic;
	struct owner *owner;
	__u32 *id, index;
	__u16 length;

	if ((void *)(tcp + 1) > end || ethernet->h_proto != htons(ETH_P_IP) || ip->ihl != 5 ||
	    ip->protocol != IPPROTO_TCP || ip->frag_off & htons(0x3fff))
		return XDP_PASS;
	length = ntohs(ip->tot_len);

	service.address = ip->daddr;
	service.port = tcp->dest;
	service.protocol = ip->protocol;
	vip = vips.lookup(&service);
	if (!vip)
		return XDP_PASS;

	flow.client = ip->saddr;
	flow.service = ip->daddr;
	flow.client_port = tcp->source;
	flow.service_port = tcp->dest;
	flow.protocol = ip->protocol;
	id = flows.lookup(&flow);
	if (!id)
		return XDP_DROP;
	index = *id;
	owner = owners.lookup(&index);
	if (!owner)
		return XDP_DROP;

	traffic = owner_traffic.lookup(&index);
	if (traffic) {
		traffic->packets += 1;
		traffic->bytes += length;
	}
	index = vip->id;
	traffic = vip_traffic.lookup(&index);
	if (traffic) {
		traffic->packets += 1;
		traffic->bytes += length;
	}
	return put_ip_before(ctx, length, owner->address);
}

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Whose flow is it? This host's own sockets know. */
#ifndef EDGE_SOCKETS_H
#define EDGE_SOCKETS_H

#include "parse.h"

/* From an enum in the kernel's include/net/tcp_states.h; both are in `enum` of
 * include/uapi/linux/bpf.h as well, which older headers lack. */
#define TCP_STATE_LISTEN 10
#define TCP_STATE_NEW_SYN_RECV 12

enum ownership {
	NOT_OURS,
	OUR_SOCKET,    /* in any state but the next: established, closing, TIME-WAIT */
	OUR_HANDSHAKE, /* half open */
	OUR_COOKIE,    /* a listener that answered with a SYN cookie has no other trace of it */
};

static __always_inline struct bpf_sock *find_socket(struct xdp_md *ctx, const struct packet *packet)
{
	const struct flow *flow = &packet->flow;
	struct bpf_sock_tuple tuple;

	if (packet->is_ipv6) {
		__builtin_memcpy(tuple.ipv6.saddr, flow->client, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, flow->service.address, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = flow->client_port;
		tuple.ipv6.dport = flow->service.port;
		return bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	tuple.ipv4.saddr = flow->client[3];
	tuple.ipv4.daddr = flow->service.address[3];
	tuple.ipv4.sport = flow->client_port;
	tuple.ipv4.dport = flow->service.port;
	return bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
}

/*
 * The kernel reads addresses, ports and numbers only, so fixed headers are enough for it, whatever
 * options or extension headers follow them.
 */
static __always_inline bool has_valid_cookie(struct bpf_sock *listener, const struct packet *packet,
					     void *end)
{
	__u32 ip_length = packet->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	if (!packet->tcp || (packet->tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST)) != TCP_ACK)
		return false;
	/* IPv4 and TCP headers make 40 octets as well: never true, but the verifier must hear it.
	 */
	if (packet->ip + sizeof(struct ipv6hdr) > end)
		return false;
	return !bpf_tcp_check_syncookie(listener, packet->ip, ip_length, packet->tcp,
					sizeof(struct tcphdr));
}

static __always_inline enum ownership find_ownership(struct xdp_md *ctx,
						     const struct packet *packet)
{
	struct bpf_sock *socket = find_socket(ctx, packet);
	void *end = (void *)(long)ctx->data_end;
	enum ownership ownership = OUR_SOCKET;

	if (!socket)
		return NOT_OURS;
	if (unlikely(socket->state == TCP_STATE_LISTEN))
		ownership = has_valid_cookie(socket, packet, end) ? OUR_COOKIE : NOT_OURS;
	else if (unlikely(socket->state == TCP_STATE_NEW_SYN_RECV))
		ownership = OUR_HANDSHAKE;
	bpf_sk_release(socket);
	return ownership;
}

#endif

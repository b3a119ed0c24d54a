/* SPDX-License-Identifier: Dual MIT/GPL */
/* The maps of NetworkPolicy, pinned by name like those of maps.h. Programs of sockets have nothing to do with them. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "consts.h"
#include "policytypes.h"

/* By the pod's number. Each of the two words is one aligned store: the switch of the pod's policy in that direction. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PODS + 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct policy_pod);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_POLICY_PEERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct policy_peer);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_POLICY_CIDRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network);
	__type(value, struct policy_cidr);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_cidrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_POLICY_VERDICTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct verdict_key);
	__type(value, struct verdict);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_verdicts SEC(".maps");

/* Cells of struct interval: lists that verdicts point to, each sorted, disjoint and immutable while it is pointed to. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_POLICY_PORTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_ports SEC(".maps");

/* Words of enum policy_word. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POLICY_WORDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_state SEC(".maps");

/* Not an LRU: a flood must not end connections that live. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TRACKED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct tracked);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tracked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PODS + 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct policy_share);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_PODS + 1);
	__type(key, __u32);
	__type(value, struct policy_counts);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_counts SEC(".maps");

/* Which pod a link of the node leads to, for what tells no address of it. By interface index. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS * 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct pod_link);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pod_links SEC(".maps");

/* Values are struct policy_event. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, POLICY_EVENT_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_events SEC(".maps");

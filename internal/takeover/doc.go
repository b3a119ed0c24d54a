// Package takeover takes a node over from kube-proxy: once nearpath serves, it removes the rules that kube-proxy left in
// the kernel, and lets the connections that these rules translated go on until they end.
//
// The model. A connection that kube-proxy translated needs none of its rules any more: conntrack holds the translation.
// What it needs is that conntrack and NAT stay switched on in the network namespace, and the kernel switches them off
// with the last rule that asks for the one and the last nat chain of the other. So the order is:
//
//  1. the keeper: a table of ours with a nat chain, empty but for one rule without a verdict that asks for conntrack;
//  2. everything of kube-proxy's that decides about new connections goes;
//  3. when the connections are over that were translated at that time: the chain KUBE-FORWARD, which accepts what
//     belongs to established connections where the policy of FORWARD may be to drop, and the keeper.
//
// Which rules are kube-proxy's is what `kube-proxy --cleanup` says (pkg/proxy/iptables/cleanup.go and
// pkg/proxy/nftables/cleanup.go of Kubernetes 1.36). The kubelet's are not among them: KUBE-FIREWALL stays, since the
// sysctl route_localnet stays, too, and it is what keeps other hosts from the node's loopback then.
//
// Nothing is removed while a process kube-proxy lives in the node's network namespace, and nothing a second time: rules
// that come back have somebody who wants them.
package takeover

// Package kube runs a whole Kubernetes cluster on one Linux machine, for tests: etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler in a network namespace, and nodes made by test/netlab with containerd,
// runc and kubelet on them. Pods are real; what a test brings is the network.
//
//	c := kube.Start(t, kube.Config{ControlPlane: cp, Nodes: nodes})
//	c.Apply(t, yaml)
//	c.WaitReady(t, "default/web", "daemonset/kube-system/nearpath")
//	out := c.Exec(t, "default/web", "/podapp", "get", "http://shop")
//
// The caller gives the network namespaces and addresses; without any, Start joins them by a plain bridge, without a
// CNI plugin, which is enough for pods in the host network.
//
// The programs are built from the Go module proxy on first use, which takes minutes, and kept in a cache. Limits on
// memory and processor time are accepted by the API but not enforced: the nodes' cgroup2 has no controllers.
//
// docs/testing.md says how to look into a running cluster.
package kube

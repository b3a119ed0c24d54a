// Package service gives Kubernetes Services their meaning on this node. Kube-proxy's behaviour is the definition.
//
// Select is the pure half of the meaning: from a Service and its endpoint slices to the backends each port has here.
// Plan is the pure half of the change: from what the kernel holds and what it should hold to a list of Ops. The
// Reconciler applies them. Work follows the change: only Services that changed are selected and planned again, and a
// property test holds the result against a plan from scratch.
package service

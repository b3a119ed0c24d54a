// Package autopath counts what a pod's lookups cost: packets on the pod's link, questions that reach the cluster's DNS and
// the node's upstream, and datagrams that the node's own stack gets, with a real agent on a node of the simulated cloud and
// with the resolvers of the C library and of Go.
package autopath

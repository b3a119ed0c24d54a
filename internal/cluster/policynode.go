package cluster

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// A PolicyNode is what policies read of a node, this one or another. It is immutable once it is in a Snapshot.
type PolicyNode struct {
	Name   string
	Addrs  []netip.Addr // internal, then external ones, as the status lists them; never v4-mapped
	Labels map[string]string
}

func (n *PolicyNode) name() Name { return Name{Name: n.Name} }

func (n *PolicyNode) equal(o *PolicyNode) bool {
	return n.Name == o.Name && slices.Equal(n.Addrs, o.Addrs) && maps.Equal(n.Labels, o.Labels)
}

// policyNodeFrom converts a Node of the API. Errors name the object and the field.
func policyNodeFrom(in *corev1.Node) (*PolicyNode, error) {
	node, err := NodeFrom(in)
	if err != nil {
		return nil, err
	}
	return &PolicyNode{Name: in.Name, Addrs: slices.Concat(node.InternalIPs, node.ExternalIPs), Labels: node.Labels}, nil
}

// PolicyNode returns the node of that name, nil when there is none or policies are not read.
func (s *Snapshot) PolicyNode(name string) *PolicyNode {
	node, _ := s.policyNodes.get(Name{Name: name})
	return node
}

// PolicyNodes yields every node of the cluster, in no particular order; nothing unless policies are read.
func (s *Snapshot) PolicyNodes() iter.Seq[*PolicyNode] { return values(s.policyNodes) }

// PutPolicyNode adds a node of the cluster or replaces the one of that name.
func (e *Edit) PutPolicyNode(node *PolicyNode) {
	putObject(e, &e.next.policyNodes, PolicyNodes, node)
}

// DeletePolicyNode removes a node of the cluster.
func (e *Edit) DeletePolicyNode(name string) {
	deleteObject(e, &e.next.policyNodes, PolicyNodes, Name{Name: name})
}

package cluster

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// A Node is the part of a v1.Node that names are published for, or the topology of this node is known from. It is immutable once it is in a Snapshot.
type Node struct {
	Meta
	// InternalIPs and ExternalIPs are the addresses of these types, in the order of the status, never v4-mapped.
	InternalIPs, ExternalIPs []netip.Addr
	// Unschedulable says that the node is cordoned.
	Unschedulable bool
	// Leaving says that the node is being deleted, or is about to be: it has the cluster autoscaler's taint.
	Leaving bool
}

// taintToBeDeleted is what the cluster autoscaler marks a node with before it deletes it (its utils/taints).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

func (n *Node) equal(o *Node) bool {
	return n.Meta.equal(&o.Meta) && slices.Equal(n.InternalIPs, o.InternalIPs) &&
		slices.Equal(n.ExternalIPs, o.ExternalIPs) && n.Unschedulable == o.Unschedulable && n.Leaving == o.Leaving
}

// Zone is where the node is, for topology hints; empty when nobody has said.
func (n *Node) Zone() string { return n.Labels[corev1.LabelTopologyZone] }

// NodeFrom converts a Node of the API. Errors name the object and the field.
func NodeFrom(in *corev1.Node) (*Node, error) {
	node := &Node{Meta: metaFrom(in), Unschedulable: in.Spec.Unschedulable}
	node.Leaving = !in.DeletionTimestamp.IsZero() ||
		slices.ContainsFunc(in.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintToBeDeleted })
	if err := node.convert(in.Status.Addresses); err != nil {
		return nil, fmt.Errorf("convert Node %s: %w", in.Name, err)
	}
	return node, nil
}

func (n *Node) convert(addresses []corev1.NodeAddress) error {
	for i, a := range addresses {
		var to *[]netip.Addr
		switch a.Type {
		case corev1.NodeInternalIP:
			to = &n.InternalIPs
		case corev1.NodeExternalIP:
			to = &n.ExternalIPs
		default:
			continue
		}
		addr, err := parseAddr(a.Address)
		if err != nil {
			return fmt.Errorf("status.addresses[%d].address: %w", i, err)
		}
		*to = append(*to, addr)
	}
	return nil
}

// Node returns the node of that name, nil when there is none or it is not read: a node reads its own.
func (s *Snapshot) Node(name string) *Node {
	node, _ := s.nodes.get(Name{Name: name})
	return node
}

// Nodes yields every node, in no particular order.
func (s *Snapshot) Nodes() iter.Seq[*Node] { return values(s.nodes) }

// PutNode adds a node or replaces the one of that name.
func (e *Edit) PutNode(node *Node) { putObject(e, &e.next.nodes, Nodes, node) }

// DeleteNode removes a node.
func (e *Edit) DeleteNode(name string) { deleteObject(e, &e.next.nodes, Nodes, Name{Name: name}) }

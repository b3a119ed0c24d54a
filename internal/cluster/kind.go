package cluster

// A Kind is a kind of object that sources read and Subscriptions follow.
type Kind uint8

// The kinds there are. Those from Ingresses to DNSEndpoints are read for publishing only, those from PolicyPods on for policies.
const (
	Services     Kind = iota // with their EndpointSlices
	Namespaces               // their coming and going; for publishing and policies, with their labels
	Pods                     // of this node; for publishing, all
	Nodes                    // with addresses and labels; this one, for publishing all
	ServiceCIDRs             // networking.k8s.io/v1, when the API has them; for nodes only
	Ingresses                // networking.k8s.io/v1
	HTTPRoutes               // gateway.networking.k8s.io/v1, when installed
	Gateways                 // gateway.networking.k8s.io/v1, when installed
	DNSEndpoints             // externaldns.k8s.io/v1alpha1, when installed

	PolicyPods             // all of the cluster
	PolicyNodes            // all of the cluster
	NetworkPolicies        // networking.k8s.io/v1
	ClusterNetworkPolicies // policy.networking.k8s.io/v1alpha2, when installed
	CalicoPolicies         // NetworkPolicies and GlobalNetworkPolicies of crd.projectcalico.org/v1, when installed
	CalicoTiers            // crd.projectcalico.org/v1, when installed
	CalicoNetworkSets      // NetworkSets and GlobalNetworkSets of crd.projectcalico.org/v1, when installed
	kindCount
)

func (k Kind) String() string {
	return [...]string{
		"Services", "Namespaces", "Pods", "Nodes", "ServiceCIDRs", "Ingresses", "HTTPRoutes", "Gateways", "DNSEndpoints",
		"PolicyPods", "PolicyNodes", "NetworkPolicies", "ClusterNetworkPolicies", "CalicoPolicies", "CalicoTiers", "CalicoNetworkSets",
	}[k]
}

// forPolicies reports whether the kind is read for policies only.
func (k Kind) forPolicies() bool { return k >= PolicyPods && k < kindCount }

// A kindSet has bit k set for Kind k.
type kindSet uint32

// kindsOf reads an empty list as every kind.
func kindsOf(list []Kind) kindSet {
	if len(list) == 0 {
		return 1<<kindCount - 1
	}
	var set kindSet
	for _, k := range list {
		set |= 1 << k
	}
	return set
}

func (s kindSet) has(k Kind) bool { return s&(1<<k) != 0 }

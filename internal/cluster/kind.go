package cluster

// A Kind is a kind of object that sources read and Subscriptions follow.
type Kind uint8

// The kinds there are. Those from Ingresses on are read for publishing only.
const (
	Services     Kind = iota // with their EndpointSlices
	Namespaces               // their coming and going; for publishing, with their labels
	Pods                     // of this node; for publishing, all
	Nodes                    // with addresses and labels; this one, for publishing all
	ServiceCIDRs             // networking.k8s.io/v1, when the API has them; for nodes only
	Ingresses                // networking.k8s.io/v1
	HTTPRoutes               // gateway.networking.k8s.io/v1, when installed
	Gateways                 // gateway.networking.k8s.io/v1, when installed
	DNSEndpoints             // externaldns.k8s.io/v1alpha1, when installed
	kindCount
)

func (k Kind) String() string {
	return [...]string{
		"Services", "Namespaces", "Pods", "Nodes", "ServiceCIDRs", "Ingresses", "HTTPRoutes", "Gateways", "DNSEndpoints",
	}[k]
}

// A kindSet has bit k set for Kind k.
type kindSet uint16

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

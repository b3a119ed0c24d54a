package cluster

import (
	"fmt"
	"net/netip"
	"time"
)

// A Name identifies a namespaced object.
type Name struct{ Namespace, Name string }

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// A Protocol is an IP protocol number.
type Protocol uint8

// The protocols a Service port may have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// A Service is the part of a v1.Service the node acts on. It is immutable once it is in a Snapshot.
type Service struct {
	Name    Name
	UID     string
	Created time.Time
	// ClusterIPs is empty for headless and ExternalName Services; the first one is the primary family.
	ClusterIPs []netip.Addr
	// ExternalIPs is spec.externalIPs, and LoadBalancerIPs those of status.loadBalancer that are for proxies: of ipMode
	// VIP, which is what none means (KEP-1860). Both are empty for publishing.
	ExternalIPs, LoadBalancerIPs []netip.Addr
	// SourceRanges is spec.loadBalancerSourceRanges, masked. Empty for publishing.
	SourceRanges []netip.Prefix
	// Headless is spec.clusterIP: None.
	Headless bool
	// ExternalName is set only for Services of type ExternalName, without the trailing dot.
	ExternalName string
	Ports        []ServicePort
	// PublishNotReady is spec.publishNotReadyAddresses. Only DNS reads it: the endpoint slices already carry
	// ready=true for such Services.
	PublishNotReady bool
	// Affinity is the ClientIP session affinity timeout, 0 for none.
	Affinity time.Duration
	// InternalLocal and ExternalLocal are the Local traffic policies.
	InternalLocal, ExternalLocal bool
	// NamesProxy says that the Service has the label service.kubernetes.io/service-proxy-name, and ProxyName is its value:
	// one that is not this proxy's has DNS names and no frontends.
	NamesProxy bool
	ProxyName  string
	// HealthCheckNodePort is spec.healthCheckNodePort where load balancers ask it: of type LoadBalancer with the external
	// policy Local. 0 for none.
	HealthCheckNodePort uint16
	// Exposure is nil unless the source reads for publishing.
	Exposure *Exposure
}

// A ServicePort is one port of a Service.
type ServicePort struct {
	Name     string // empty when the Service has a single unnamed port
	Protocol Protocol
	Port     uint16 // host order
	NodePort uint16 // host order, 0 for none
	// NoShortcut says that the load balancer's listener of this port does more than pass bytes on: see listeners.
	NoShortcut bool
}

// An EndpointSlice is the part of a discovery.k8s.io/v1 EndpointSlice the node acts on; slices of address type
// FQDN never reach a Snapshot. It is immutable once it is in a Snapshot.
type EndpointSlice struct {
	Name    Name
	Service Name // from the label kubernetes.io/service-name
	// Headless is the label service.kubernetes.io/headless: kube-proxy does not see such slices, DNS does.
	Headless bool
	// Triggered is when the control plane saw the change that led to this state (annotation
	// endpoints.kubernetes.io/last-change-trigger-time), the zero time when it does not say. Two states that differ in it
	// alone are the same.
	Triggered time.Time
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// An EndpointPort is one port all endpoints of a slice share. Ports without a number are left out.
type EndpointPort struct {
	Name     string
	Protocol Protocol
	Port     uint16 // host order
}

// An Endpoint is one address behind a Service. Of several addresses only the first counts, as for kube-proxy.
type Endpoint struct {
	Addr     netip.Addr // never v4-mapped
	Hostname string
	NodeName string // lower case
	Zone     string
	Pod      string // targetRef.name when the target is a Pod
	// Ready and Serving default to true, Terminating to false, as the API says for nil conditions.
	Ready, Serving, Terminating bool
	// ForZones and ForNodes are the topology hints.
	ForZones, ForNodes []string
}

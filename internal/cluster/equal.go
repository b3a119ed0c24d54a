package cluster

import (
	"maps"
	"slices"
)

// equal reports whether two states of a Service mean the same to everybody who reads Snapshots, so that an update of
// fields nobody reads wakes nobody.
func (s *Service) equal(o *Service) bool {
	return s.Name == o.Name && s.UID == o.UID && s.Created.Equal(o.Created) &&
		slices.Equal(s.ClusterIPs, o.ClusterIPs) && slices.Equal(s.ExternalIPs, o.ExternalIPs) &&
		slices.Equal(s.LoadBalancerIPs, o.LoadBalancerIPs) && slices.Equal(s.SourceRanges, o.SourceRanges) && s.Headless == o.Headless && s.ExternalName == o.ExternalName &&
		slices.Equal(s.Ports, o.Ports) && s.PublishNotReady == o.PublishNotReady && s.Affinity == o.Affinity &&
		s.InternalLocal == o.InternalLocal && s.ExternalLocal == o.ExternalLocal && s.NamesProxy == o.NamesProxy &&
		s.ProxyName == o.ProxyName && s.HealthCheckNodePort == o.HealthCheckNodePort &&
		s.Exposure.equal(o.Exposure)
}

func (s *EndpointSlice) equal(o *EndpointSlice) bool {
	return s.Name == o.Name && s.Service == o.Service && s.Headless == o.Headless &&
		slices.Equal(s.Ports, o.Ports) && slices.EqualFunc(s.Endpoints, o.Endpoints, Endpoint.equal)
}

func (e Endpoint) equal(o Endpoint) bool {
	return e.Addr == o.Addr && e.Hostname == o.Hostname && e.NodeName == o.NodeName && e.Zone == o.Zone &&
		e.Pod == o.Pod && e.Ready == o.Ready && e.Serving == o.Serving && e.Terminating == o.Terminating &&
		slices.Equal(e.ForZones, o.ForZones) && slices.Equal(e.ForNodes, o.ForNodes)
}

func (p *Pod) equal(o *Pod) bool {
	return p.Name == o.Name && p.UID == o.UID && p.Node == o.Node && p.Created.Equal(o.Created) &&
		slices.Equal(p.Addrs, o.Addrs) && p.HostNetwork == o.HostNetwork && p.Owner == o.Owner &&
		maps.Equal(p.Labels, o.Labels) && maps.Equal(p.Annotations, o.Annotations) &&
		p.RuntimeClass == o.RuntimeClass && slices.Equal(p.Containers, o.Containers) && p.NetAdmin == o.NetAdmin &&
		p.DNS.equal(o.DNS) && p.Phase == o.Phase && p.Terminating == o.Terminating && p.Ready == o.Ready
}

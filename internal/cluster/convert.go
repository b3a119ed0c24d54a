package cluster

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netutils "k8s.io/utils/net"
)

const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// maxAffinitySeconds is the API server's limit, one day.
const maxAffinitySeconds = 86400

// defaultAffinity is what the API server fills in for sessionAffinityConfig.clientIP.timeoutSeconds.
const defaultAffinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second

// ServiceFrom converts a Service of the API. Fields that proxies must ignore (targetPort, appProtocol, loadBalancerIP,
// loadBalancerClass, ipFamilyPolicy, trafficDistribution) are not looked at. Errors name the object and the field.
func ServiceFrom(in *corev1.Service) (*Service, error) {
	svc, err := serviceFrom(in)
	if err != nil {
		return nil, err
	}
	if err := svc.convertExternal(in); err != nil {
		return nil, fmt.Errorf("convert Service %s: %w", svc.Name, err)
	}
	return svc, nil
}

// serviceFrom is ServiceFrom without what only forwarding reads.
func serviceFrom(in *corev1.Service) (*Service, error) {
	svc := &Service{
		Name:            Name{in.Namespace, in.Name},
		UID:             string(in.UID),
		Created:         in.CreationTimestamp.Time,
		PublishNotReady: in.Spec.PublishNotReadyAddresses,
		InternalLocal:   in.Spec.InternalTrafficPolicy != nil && *in.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal:   in.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	svc.ProxyName, svc.NamesProxy = in.Labels[labelServiceProxyName]
	if err := svc.convertSpec(&in.Spec); err != nil {
		return nil, fmt.Errorf("convert Service %s: %w", svc.Name, err)
	}
	return svc, nil
}

// convertExternal reads where the Service is reached beside its cluster IPs and ports of nodes.
func (s *Service) convertExternal(in *corev1.Service) (err error) {
	if in.Spec.Type == corev1.ServiceTypeLoadBalancer && s.ExternalLocal {
		if p := in.Spec.HealthCheckNodePort; p < 0 || p > 65535 {
			return fmt.Errorf("spec.healthCheckNodePort: %d is not a port", p)
		}
		s.HealthCheckNodePort = uint16(in.Spec.HealthCheckNodePort)
	}
	s.markListeners(in.Annotations)
	if s.ExternalIPs, err = parseEach("spec.externalIPs", in.Spec.ExternalIPs, parseAddr); err != nil {
		return err
	}
	if s.SourceRanges, err = parseEach("spec.loadBalancerSourceRanges", in.Spec.LoadBalancerSourceRanges, parsePrefix); err != nil {
		return err
	}
	for i, at := range in.Status.LoadBalancer.Ingress {
		if at.IP == "" || at.IPMode != nil && *at.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		addr, err := parseAddr(at.IP)
		if err != nil {
			return fmt.Errorf("status.loadBalancer.ingress[%d].ip: %w", i, err)
		}
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, addr)
	}
	return nil
}

// parseEach parses a list whose entries may have space around them or be empty: old API servers let that pass, and proxies
// pass over what is empty.
func parseEach[T any](field string, texts []string, parse func(string) (T, error)) (out []T, _ error) {
	for i, text := range texts {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		v, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func (s *Service) convertSpec(spec *corev1.ServiceSpec) error {
	var err error
	if spec.Type == corev1.ServiceTypeExternalName {
		if s.ExternalName = strings.TrimSuffix(spec.ExternalName, "."); s.ExternalName == "" {
			return fmt.Errorf("spec.externalName: empty")
		}
	} else if s.ClusterIPs, s.Headless, err = clusterIPs(spec); err != nil {
		return err
	}
	if s.Ports, err = servicePorts(spec.Ports); err != nil {
		return err
	}
	s.Affinity, err = affinity(spec)
	return err
}

func clusterIPs(spec *corev1.ServiceSpec) (_ []netip.Addr, headless bool, _ error) {
	field, texts := "spec.clusterIPs", spec.ClusterIPs
	if len(texts) == 0 && spec.ClusterIP != "" { // an object that no API server has completed
		field, texts = "spec.clusterIP", []string{spec.ClusterIP}
	}
	if len(texts) == 1 && texts[0] == corev1.ClusterIPNone {
		return nil, true, nil
	}
	var addrs []netip.Addr
	for i, text := range texts {
		addr, err := parseAddr(text)
		if err != nil {
			return nil, false, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		addrs = append(addrs, addr)
	}
	return addrs, false, nil
}

func servicePorts(in []corev1.ServicePort) ([]ServicePort, error) {
	ports := make([]ServicePort, 0, len(in))
	for i, p := range in {
		proto, err := protocol(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("spec.ports[%d].protocol: %w", i, err)
		}
		if p.Port < 1 || p.Port > 65535 {
			return nil, fmt.Errorf("spec.ports[%d].port: %d is not a port", i, p.Port)
		}
		if p.NodePort < 0 || p.NodePort > 65535 {
			return nil, fmt.Errorf("spec.ports[%d].nodePort: %d is not a port", i, p.NodePort)
		}
		ports = append(ports, ServicePort{Name: intern(p.Name), Protocol: proto, Port: uint16(p.Port), NodePort: uint16(p.NodePort)})
	}
	return ports, nil
}

func affinity(spec *corev1.ServiceSpec) (time.Duration, error) {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0, nil
	}
	c := spec.SessionAffinityConfig
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		return defaultAffinity, nil
	}
	seconds := *c.ClientIP.TimeoutSeconds
	if seconds < 1 || seconds > maxAffinitySeconds {
		return 0, fmt.Errorf("spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d is not within 1 to %d",
			seconds, maxAffinitySeconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// SliceFrom converts an EndpointSlice of the API. It returns nil for one that no Snapshot holds: of address type FQDN,
// or without the name of its Service. Errors name the object and the field.
func SliceFrom(in *discoveryv1.EndpointSlice) (*EndpointSlice, error) {
	service := in.Labels[discoveryv1.LabelServiceName]
	if service == "" || in.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	slice := &EndpointSlice{
		Name:    Name{in.Namespace, in.Name},
		Service: Name{in.Namespace, service},
	}
	_, slice.Headless = in.Labels[corev1.IsHeadlessService]
	// What cannot be read is not worth refusing the slice: nothing but a metric looks at it.
	slice.Triggered, _ = time.Parse(time.RFC3339Nano, in.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err := slice.convert(in); err != nil {
		return nil, fmt.Errorf("convert EndpointSlice %s: %w", slice.Name, err)
	}
	return slice, nil
}

func (s *EndpointSlice) convert(in *discoveryv1.EndpointSlice) error {
	var err error
	if s.Ports, err = endpointPorts(in.Ports); err != nil {
		return err
	}
	s.Endpoints = make([]Endpoint, len(in.Endpoints))
	for i := range in.Endpoints {
		if s.Endpoints[i], err = endpoint(&in.Endpoints[i], in.AddressType); err != nil {
			return fmt.Errorf("endpoints[%d].%w", i, err)
		}
	}
	return nil
}

func endpointPorts(in []discoveryv1.EndpointPort) ([]EndpointPort, error) {
	ports := make([]EndpointPort, 0, len(in))
	for i, p := range in {
		if p.Name == nil || p.Port == nil || *p.Port == 0 {
			continue // no name or number means nothing to forward to, for kube-proxy too
		}
		if *p.Port < 0 || *p.Port > 65535 {
			return nil, fmt.Errorf("ports[%d].port: %d is not a port", i, *p.Port)
		}
		var text corev1.Protocol
		if p.Protocol != nil {
			text = *p.Protocol
		}
		proto, err := protocol(text)
		if err != nil {
			return nil, fmt.Errorf("ports[%d].protocol: %w", i, err)
		}
		ports = append(ports, EndpointPort{intern(*p.Name), proto, uint16(*p.Port)})
	}
	return ports, nil
}

func endpoint(in *discoveryv1.Endpoint, family discoveryv1.AddressType) (Endpoint, error) {
	addr, err := endpointAddr(in.Addresses, family)
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{
		Addr:        addr,
		Hostname:    orEmpty(in.Hostname),
		NodeName:    intern(strings.ToLower(orEmpty(in.NodeName))),
		Zone:        intern(orEmpty(in.Zone)),
		Ready:       in.Conditions.Ready == nil || *in.Conditions.Ready,
		Serving:     in.Conditions.Serving == nil || *in.Conditions.Serving,
		Terminating: in.Conditions.Terminating != nil && *in.Conditions.Terminating,
	}
	if in.TargetRef != nil && in.TargetRef.Kind == "Pod" {
		e.Pod = in.TargetRef.Name
	}
	if in.Hints == nil {
		return e, nil
	}
	for _, zone := range in.Hints.ForZones {
		e.ForZones = append(e.ForZones, intern(zone.Name))
	}
	for _, node := range in.Hints.ForNodes {
		e.ForNodes = append(e.ForNodes, intern(strings.ToLower(node.Name)))
	}
	return e, nil
}

func endpointAddr(texts []string, family discoveryv1.AddressType) (netip.Addr, error) {
	if len(texts) == 0 {
		return netip.Addr{}, fmt.Errorf("addresses: empty")
	}
	addr, err := parseAddr(texts[0])
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses[0]: %w", err)
	}
	if addr.Is4() != (family == discoveryv1.AddressTypeIPv4) {
		return netip.Addr{}, fmt.Errorf("addresses[0]: %s in a slice of address type %q", addr, family)
	}
	return addr, nil
}

// parseAddr accepts what kube-proxy accepts, leading zeros included: clusters hold objects older than the API
// server's stricter validation.
func parseAddr(text string) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	if !ok {
		return netip.Addr{}, fmt.Errorf("%q is not an address", text)
	}
	return addr.Unmap(), nil
}

func protocol(p corev1.Protocol) (Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, nil
	case corev1.ProtocolUDP:
		return UDP, nil
	case corev1.ProtocolSCTP:
		return SCTP, nil
	}
	return 0, fmt.Errorf("%q is not TCP, UDP or SCTP", p)
}

// intern makes equal strings share memory: a cluster repeats few node, zone and port names in very many endpoints.
func intern(s string) string { return unique.Make(s).Value() }

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

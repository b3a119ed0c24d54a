package cluster

import (
	"encoding/json"
	"errors"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const versionNetworking = "networking.k8s.io/v1"

// addPublished reads what is to be published.
func (m *manifestSet) addPublished(where string, h *manifestHeader, object []byte) error {
	type kind struct{ version, kind string }
	read := map[kind]struct {
		Kind
		add func(string, *manifestHeader, []byte) error
	}{
		{versionCore, kindService}:            {Services, m.addService},
		{versionDiscovery, kindSlice}:         {Services, m.addSlice},
		{versionCore, kindNamespace}:          {Namespaces, m.addNamespace},
		{versionCore, kindPod}:                {Pods, m.addPod},
		{versionCore, kindNode}:               {Nodes, m.addNode},
		{versionNetworking, kindIngress}:      {Ingresses, m.addIngress},
		{versionGateway, kindHTTPRoute}:       {HTTPRoutes, m.addHTTPRoute},
		{versionGateway, kindGateway}:         {Gateways, m.addGateway},
		{versionDNSEndpoint, kindDNSEndpoint}: {DNSEndpoints, m.addDNSEndpoint},
	}[kind{h.APIVersion, h.Kind}]
	if read.add == nil || !m.publish.has(read.Kind) {
		m.unread(h)
		return nil
	}
	return read.add(where, h, object)
}

// addNode leaves out other nodes than a node's own once they have been found good.
func (m *manifestSet) addNode(where string, h *manifestHeader, object []byte) error {
	var in corev1.Node
	if err := decodeStrict(object, &in); err != nil {
		return err
	}
	if err := checkName("metadata.name", in.Name, validation.IsDNS1123Subdomain); err != nil {
		return err
	}
	in.Namespace = ""
	node, err := NodeFrom(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	if m.publish != 0 || node.Name.Name == m.node {
		m.objects.Nodes = append(m.objects.Nodes, node)
	}
	if m.policy {
		of, err := policyNodeFrom(&in)
		if err != nil {
			return errors.Unwrap(err)
		}
		m.objects.PolicyNodes = append(m.objects.PolicyNodes, of)
	}
	return m.define(where, h.Kind, Name{Name: in.Name})
}

func (m *manifestSet) addIngress(where string, h *manifestHeader, object []byte) error {
	var in networkingv1.Ingress
	if err := decodeStrict(object, &in); err != nil {
		return err
	}
	if err := m.place(where, h, &in.ObjectMeta); err != nil {
		return err
	}
	ingress, err := IngressFrom(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	m.objects.Ingresses = append(m.objects.Ingresses, ingress)
	return nil
}

// Of custom resources only what is read is checked: their types are not known in full.

func (m *manifestSet) addHTTPRoute(where string, h *manifestHeader, object []byte) error {
	var in httpRoute
	if err := json.Unmarshal(object, &in); err != nil {
		return err
	}
	if err := m.place(where, h, &in.ObjectMeta); err != nil {
		return err
	}
	route, err := httpRouteFrom(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	m.objects.HTTPRoutes = append(m.objects.HTTPRoutes, route)
	return nil
}

func (m *manifestSet) addGateway(where string, h *manifestHeader, object []byte) error {
	var in gateway
	if err := json.Unmarshal(object, &in); err != nil {
		return err
	}
	if err := m.place(where, h, &in.ObjectMeta); err != nil {
		return err
	}
	gateway, err := gatewayFrom(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	m.objects.Gateways = append(m.objects.Gateways, gateway)
	return nil
}

func (m *manifestSet) addDNSEndpoint(where string, h *manifestHeader, object []byte) error {
	var in dnsEndpoint
	if err := json.Unmarshal(object, &in); err != nil {
		return err
	}
	if err := m.place(where, h, &in.ObjectMeta); err != nil {
		return err
	}
	endpoint, err := dnsEndpointFrom(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	m.objects.DNSEndpoints = append(m.objects.DNSEndpoints, endpoint)
	return nil
}

// place fills in the namespace, checks the names and notes where the object is.
func (m *manifestSet) place(where string, h *manifestHeader, meta *metav1.ObjectMeta) error {
	if meta.Namespace == "" {
		meta.Namespace = defaultNamespace
	}
	if err := checkNames(meta.Namespace, meta.Name, validation.IsDNS1123Subdomain); err != nil {
		return err
	}
	m.namespaces[meta.Namespace] = struct{}{}
	return m.define(where, h.Kind, Name{meta.Namespace, meta.Name})
}

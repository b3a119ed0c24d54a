package cluster

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
)

const (
	defaultNamespace  = "default"
	versionCore       = "v1"
	versionDiscovery  = "discovery.k8s.io/v1"
	discoveryAPIGroup = "discovery.k8s.io"
)

func (m *manifestSet) addKind(where string, h *manifestHeader, object []byte) error {
	if m.publish != 0 {
		return m.addPublished(where, h, object)
	}
	switch {
	case h.APIVersion == versionCore && h.Kind == kindService:
		return m.addService(where, h, object)
	case h.APIVersion == versionCore && h.Kind == kindNamespace:
		return m.addNamespace(where, h, object)
	case h.APIVersion == versionCore && h.Kind == kindPod && m.node != "":
		return m.addPod(where, h, object)
	case h.APIVersion == versionCore && h.Kind == kindNode && m.node != "":
		return m.addNode(where, h, object)
	case h.APIVersion == versionNetworking && h.Kind == kindServiceCIDR:
		return m.addServiceCIDR(where, h, object)
	case h.APIVersion == versionDiscovery && h.Kind == kindSlice:
		return m.addSlice(where, h, object)
	case h.Kind == kindSlice && strings.HasPrefix(h.APIVersion, discoveryAPIGroup+"/"):
		return fmt.Errorf("apiVersion: %s is not read, write %s", h.APIVersion, versionDiscovery)
	}
	if kind := h.policyKind(); kind != "" && m.policy {
		return m.addPolicy(where, kind, h, object)
	}
	m.unread(h)
	return nil
}

// unread notes the namespace of an object that nothing else is read of.
func (m *manifestSet) unread(h *manifestHeader) {
	if h.Metadata.Namespace != "" {
		m.namespaces[h.Metadata.Namespace] = struct{}{}
	}
}

func (m *manifestSet) addNamespace(where string, h *manifestHeader, object []byte) error {
	var in corev1.Namespace
	if err := decodeStrict(object, &in); err != nil {
		return err
	}
	if err := checkName("metadata.name", h.Metadata.Name, validation.IsDNS1123Label); err != nil {
		return err
	}
	m.namespaces[h.Metadata.Name] = struct{}{}
	if m.policy && in.DeletionTimestamp != nil {
		if m.objects.LeavingNamespaces == nil {
			m.objects.LeavingNamespaces = make(map[string]bool)
		}
		m.objects.LeavingNamespaces[in.Name] = true
	}
	if labels := metaFrom(&in).Labels; (m.publish != 0 || m.policy) && labels != nil {
		if m.objects.NamespaceLabels == nil {
			m.objects.NamespaceLabels = make(map[string]map[string]string)
		}
		m.objects.NamespaceLabels[in.Name] = labels
	}
	return m.define(where, h.Kind, Name{Name: h.Metadata.Name})
}

func (m *manifestSet) addService(where string, h *manifestHeader, object []byte) error {
	var in corev1.Service
	if err := decodeStrict(object, &in); err != nil {
		return err
	}
	if in.Namespace == "" {
		in.Namespace = defaultNamespace
	}
	if err := checkNames(in.Namespace, in.Name, validation.IsDNS1123Label); err != nil {
		return err
	}
	convert := ServiceFrom
	if m.publish != 0 {
		convert = exposedServiceFrom
	}
	svc, err := convert(&in)
	if err != nil {
		return errors.Unwrap(err) // the place says already which object it is
	}
	m.namespaces[in.Namespace] = struct{}{}
	m.objects.Services = append(m.objects.Services, svc)
	return m.define(where, h.Kind, svc.Name)
}

func (m *manifestSet) addSlice(where string, h *manifestHeader, object []byte) error {
	var in discoveryv1.EndpointSlice
	if err := decodeStrict(object, &in); err != nil {
		return err
	}
	if in.Namespace == "" {
		in.Namespace = defaultNamespace
	}
	if err := checkNames(in.Namespace, in.Name, validation.IsDNS1123Subdomain); err != nil {
		return err
	}
	switch in.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	default:
		return fmt.Errorf("addressType: %q is not IPv4, IPv6 or FQDN", in.AddressType)
	}
	for i := range in.Ports { // as the API server does
		if in.Ports[i].Name == nil {
			in.Ports[i].Name = new("")
		}
	}
	convert := SliceFrom
	if m.publish != 0 {
		convert = exposedSliceFrom
	}
	slice, err := convert(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	m.namespaces[in.Namespace] = struct{}{}
	if slice != nil {
		m.objects.Slices = append(m.objects.Slices, slice)
	}
	return m.define(where, h.Kind, Name{in.Namespace, in.Name})
}

func (m *manifestSet) addServiceCIDR(where string, h *manifestHeader, object []byte) error {
	var in networkingv1.ServiceCIDR
	if err := decodeStrict(object, &in); err != nil {
		return err
	}
	if err := checkName("metadata.name", in.Name, validation.IsDNS1123Subdomain); err != nil {
		return err
	}
	cidr, err := ServiceCIDRFrom(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	m.objects.ServiceCIDRs = append(m.objects.ServiceCIDRs, cidr)
	return m.define(where, h.Kind, cidr.name())
}

// addPod leaves out pods of other nodes once they have been found good.
func (m *manifestSet) addPod(where string, h *manifestHeader, object []byte) error {
	var in corev1.Pod
	if err := decodeStrict(object, &in); err != nil {
		return err
	}
	if in.Namespace == "" {
		in.Namespace = defaultNamespace
	}
	if err := checkNames(in.Namespace, in.Name, validation.IsDNS1123Subdomain); err != nil {
		return err
	}
	convert := PodFrom
	if m.publish != 0 {
		convert = exposedPodFrom
	}
	pod, err := convert(&in)
	if err != nil {
		return errors.Unwrap(err)
	}
	local := pod.Node == m.node || pod.Node == ""
	if m.policy {
		if err := m.addPolicyPod(&in, local); err != nil {
			return err
		}
	}
	m.namespaces[in.Namespace] = struct{}{}
	if local || m.publish != 0 {
		m.objects.Pods = append(m.objects.Pods, pod)
	}
	return m.define(where, h.Kind, pod.Name)
}

// decodeStrict refuses fields the type does not have and fields given twice.
func decodeStrict(object []byte, into any) error {
	strict, err := kjson.UnmarshalStrict(object, into)
	if err != nil {
		return err
	}
	if len(strict) == 0 {
		return nil
	}
	faults := make([]string, len(strict))
	for i := range strict {
		faults[i] = strict[i].Error()
	}
	return errors.New(strings.Join(faults, "; "))
}

func checkNames(namespace, name string, check func(string) []string) error {
	if err := checkName("metadata.namespace", namespace, validation.IsDNS1123Label); err != nil {
		return err
	}
	return checkName("metadata.name", name, check)
}

func checkName(field, name string, check func(string) []string) error {
	if faults := check(name); len(faults) > 0 {
		return fmt.Errorf("%s: %q: %s", field, name, strings.Join(faults, "; "))
	}
	return nil
}

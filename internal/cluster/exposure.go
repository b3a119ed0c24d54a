package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// An Exposure is what of a Service matters to publishing only.
type Exposure struct {
	Type                corev1.ServiceType
	Labels, Annotations map[string]string // annotations as in Meta
	// ExternalIPs is spec.externalIPs, never v4-mapped.
	ExternalIPs  []netip.Addr
	LoadBalancer LoadBalancer
}

func (x *Exposure) equal(o *Exposure) bool {
	if x == nil || o == nil {
		return x == o
	}
	return x.Type == o.Type && maps.Equal(x.Labels, o.Labels) && maps.Equal(x.Annotations, o.Annotations) &&
		slices.Equal(x.ExternalIPs, o.ExternalIPs) && x.LoadBalancer.equal(&o.LoadBalancer)
}

// exposedServiceFrom is ServiceFrom with an Exposure.
func exposedServiceFrom(in *corev1.Service) (*Service, error) {
	svc, err := serviceFrom(in)
	if err != nil {
		return nil, err
	}
	meta := metaFrom(in)
	x := &Exposure{Type: in.Spec.Type, Labels: meta.Labels, Annotations: meta.Annotations}
	if x.Type == "" {
		x.Type = corev1.ServiceTypeClusterIP // an object that no API server has completed
	}
	if err := x.convert(in); err != nil {
		return nil, fmt.Errorf("convert Service %s: %w", svc.Name, err)
	}
	svc.Name.Namespace = meta.Name.Namespace // shared
	svc.Exposure = x
	return svc, nil
}

func (x *Exposure) convert(in *corev1.Service) error {
	var err error
	if x.ExternalIPs, err = parseEach("spec.externalIPs", in.Spec.ExternalIPs, parseAddr); err != nil {
		return err
	}
	for i, at := range in.Status.LoadBalancer.Ingress {
		if err := x.LoadBalancer.add(i, at.IP, at.Hostname); err != nil {
			return err
		}
	}
	return nil
}

// exposedSliceFrom is SliceFrom without what only forwarding reads: hints, zones, ports.
func exposedSliceFrom(in *discoveryv1.EndpointSlice) (*EndpointSlice, error) {
	slice, err := SliceFrom(in)
	if slice == nil || err != nil {
		return nil, err
	}
	slice.Name.Namespace, slice.Service.Namespace = intern(in.Namespace), intern(in.Namespace)
	slice.Ports = nil
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		e.Zone, e.ForZones, e.ForNodes = "", nil, nil
	}
	return slice, nil
}

// exposedPodFrom is PodFrom for publishing: another choice of annotations, and whether the pod is ready.
func exposedPodFrom(in *corev1.Pod) (*Pod, error) {
	addrs, err := podAddrs(&in.Status)
	if err != nil {
		return nil, fmt.Errorf("convert Pod %s: %w", Name{in.Namespace, in.Name}, err)
	}
	meta := metaFrom(in)
	return &Pod{
		Name: meta.Name, UID: meta.UID, Created: meta.Created, Labels: meta.Labels, Annotations: meta.Annotations,
		Node: intern(in.Spec.NodeName), HostNetwork: in.Spec.HostNetwork, Addrs: addrs,
		Phase: phase(in.Status.Phase), Terminating: in.DeletionTimestamp != nil, Ready: isReady(&in.Status),
	}, nil
}

func isReady(status *corev1.PodStatus) bool {
	return slices.ContainsFunc(status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

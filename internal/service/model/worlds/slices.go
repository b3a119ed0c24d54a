package worlds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func uid(i int) types.UID { return types.UID(fmt.Sprintf("uid-%d", i)) }

// slices draws the endpoint slices of a Service.
func (d *drawing) slices(svc *corev1.Service) (out []*discoveryv1.EndpointSlice) {
	hinted := d.oneIn(3, "hints")
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		var backends []Backend
		for _, b := range d.lab.Backends {
			if b.Addr.Is6() == (family == discoveryv1.AddressTypeIPv6) {
				backends = append(backends, b)
			}
		}
		if len(backends) == 0 || d.seldom("no slices") {
			continue
		}
		first, second := d.slice(svc, family, len(out)), d.slice(svc, family, len(out)+1)
		backends = rapid.Permutation(backends).Draw(d.t, "backends")
		d.fill(first, second, backends[:rapid.IntRange(0, min(len(backends), d.lab.Endpoints)).Draw(d.t, "endpoints")], hinted)
		out = append(out, first)
		if len(second.Endpoints) > 0 {
			out = append(out, second)
		}
	}
	if d.oneIn(16, "FQDN slice") {
		slice := d.slice(svc, discoveryv1.AddressTypeFQDN, len(out))
		slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"backend.example"}}}
		out = append(out, slice)
	}
	return out
}

// fill spreads endpoints over two slices.
func (d *drawing) fill(first, second *discoveryv1.EndpointSlice, backends []Backend, hinted bool) {
	for _, b := range backends {
		e := d.endpoint(b, hinted)
		if d.oneIn(3, "second slice") {
			second.Endpoints = append(second.Endpoints, e)
			continue
		}
		first.Endpoints = append(first.Endpoints, e)
		// The endpoint on its way from one slice to the other: of two copies one terminates.
		if d.seldom("copy") {
			second.Endpoints = append(second.Endpoints, d.other(b, e, hinted))
		}
	}
}

// slice draws one without endpoints.
func (d *drawing) slice(svc *corev1.Service, family discoveryv1.AddressType, i int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: fmt.Sprintf("%s-%d", svc.Name, i),
			Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: family,
	}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone || d.oneIn(16, "headless slice") {
		slice.Labels[corev1.IsHeadlessService] = ""
	}
	for _, p := range svc.Spec.Ports {
		if d.oneIn(16, "port left out") {
			continue
		}
		target := pick(d, "target port", d.lab.TargetPorts)
		port := discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &target}
		switch {
		case d.oneIn(16, "no number"):
			port.Port = nil
		case d.oneIn(16, "number 0"):
			target = 0
		case d.oneIn(16, "no name"):
			port.Name = nil
		}
		slice.Ports = append(slice.Ports, port)
	}
	return slice
}

func (d *drawing) endpoint(b Backend, hinted bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{b.Addr.String()}}
	if !d.seldom("nowhere") {
		node := b.Node
		// Whoever has an address is not who the object says it is.
		if d.seldom("on another node") {
			node = pick(d, "node", []string{d.lab.Node.Name, "there"})
		}
		e.NodeName = &node
	}
	if d.seldom("two addresses") {
		e.Addresses = append(e.Addresses, pick(d, "second", d.lab.Backends).Addr.String())
	}
	zone := pick(d, "zone of", d.lab.Zones)
	e.Zone = &zone
	e.Conditions = d.conditions()
	if hinted && !d.oneIn(10, "not hinted") {
		e.Hints = d.hints()
	}
	return e
}

func (d *drawing) hints() *discoveryv1.EndpointHints {
	hints := &discoveryv1.EndpointHints{}
	for range rapid.IntRange(0, 2).Draw(d.t, "zones") {
		if zone := pick(d, "hint", d.lab.Zones); zone != "" {
			hints.ForZones = append(hints.ForZones, discoveryv1.ForZone{Name: zone})
		}
	}
	for range rapid.IntRange(0, 2).Draw(d.t, "nodes") {
		hints.ForNodes = append(hints.ForNodes, discoveryv1.ForNode{Name: pick(d, "hint", []string{d.lab.Node.Name, "there"})})
	}
	return hints
}

// conditions draws ready endpoints most of the time.
func (d *drawing) conditions() discoveryv1.EndpointConditions {
	yes, no := true, false
	condition := func(what string) *bool { return pick(d, what, []*bool{nil, &yes, &no}) }
	switch pick(d, "conditions", []string{"none", "ready", "draining", "down", "any"}) {
	case "none":
		return discoveryv1.EndpointConditions{}
	case "ready":
		return discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}
	case "draining":
		return discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	case "down":
		return discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: condition("terminating")}
	default:
		return discoveryv1.EndpointConditions{Ready: condition("ready"), Serving: condition("serving"), Terminating: condition("terminating")}
	}
}

// other draws a second copy of an endpoint. kube-proxy leaves open which of two counts that are alike in terminating.
func (d *drawing) other(b Backend, e discoveryv1.Endpoint, hinted bool) discoveryv1.Endpoint {
	copied := d.endpoint(b, hinted)
	terminating := e.Conditions.Terminating == nil || !*e.Conditions.Terminating
	copied.Conditions.Terminating = &terminating
	return copied
}

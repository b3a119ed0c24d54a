package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nearpath/nearpath/internal/service/model"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// shrinkTries bounds the worlds that are tried on the way to a smallest one.
const shrinkTries = 150

// explain prints a difference in the smallest world that shows it.
func (r *runner) explain(seed int, w *model.World, c *comparison, wrong []difference) error {
	fmt.Fprintf(r.out, "MISMATCH in the cluster of seed %d (node port addresses %q): %d probes\n", seed, w.Node.NodePortAddresses, len(wrong))
	for _, d := range wrong[:min(len(wrong), 8)] {
		fmt.Fprintf(r.out, "  %s\n%s", d.probe, d.what)
	}
	first := wrong[0]
	smallest, last, err := r.shrink(w, c, first)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "  the first of them in the smallest cluster that shows it: %s\n%s", last.probe, last.what)
	for _, m := range manifests(smallest) {
		if _, ok := m.(*corev1.Node); ok && len(smallest.Node.Labels) == 0 {
			continue
		}
		text, err := compactYAML(m)
		if err != nil {
			return err
		}
		fmt.Fprintf(r.out, "---\n%s", text)
	}
	return nil
}

// compactYAML is an object without what is empty.
func compactYAML(object any) (string, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return "", err
	}
	text, err := yaml.Marshal(withoutEmpty(fields))
	return string(text), err
}

func withoutEmpty(value any) any {
	fields, ok := value.(map[string]any)
	if !ok {
		return value
	}
	kept := map[string]any{}
	for name, v := range fields {
		v = withoutEmpty(v)
		if m, ok := v.(map[string]any); v != nil && (!ok || len(m) > 0) {
			kept[name] = v
		}
	}
	return kept
}

// shrink takes things out of a world for as long as one probe goes wrong in it.
func (r *runner) shrink(w *model.World, c *comparison, d difference) (*model.World, difference, error) {
	probes, left := c.company(d), shrinkTries
	for {
		smaller := false
		for _, candidate := range candidates(w) {
			if left--; left < 0 {
				return w, d, nil
			}
			found, err := r.still(candidate, probes, c.sides, d)
			if err != nil {
				return nil, d, err
			}
			if found != nil {
				w, d, smaller = candidate, *found, true
				break
			}
		}
		if !smaller {
			return w, d, nil
		}
	}
}

// still tries a world. It is no error when a proxy refuses it.
func (r *runner) still(w *model.World, probes []model.Probe, sides []*side, d difference) (*difference, error) {
	c := newComparison(w, probes, sides)
	if err := c.serve(w); err != nil {
		return nil, nil
	}
	if err := c.find(2*r.o.patience, manyTries, 2); err != nil {
		return nil, err
	}
	for _, found := range r.judge(c) {
		if found.affinity == d.affinity {
			return &found, nil
		}
	}
	return nil, nil
}

// candidates are worlds that are a little smaller, those first that are much.
func candidates(w *model.World) (out []*model.World) {
	try := func(change func(c *model.World)) {
		c := clone(w)
		change(c)
		out = append(out, c)
	}
	for i, svc := range w.Services {
		try(func(c *model.World) {
			c.Services = slices.Delete(c.Services, i, i+1)
			c.Slices = slices.DeleteFunc(c.Slices, func(s *discoveryv1.EndpointSlice) bool { return s.Labels[discoveryv1.LabelServiceName] == svc.Name })
		})
	}
	for i, slice := range w.Slices {
		try(func(c *model.World) { c.Slices = slices.Delete(c.Slices, i, i+1) })
		for j := range slice.Endpoints {
			try(func(c *model.World) { c.Slices[i].Endpoints = slices.Delete(c.Slices[i].Endpoints, j, j+1) })
		}
		for j := range slice.Ports {
			try(func(c *model.World) { c.Slices[i].Ports = slices.Delete(c.Slices[i].Ports, j, j+1) })
		}
	}
	for i, svc := range w.Services {
		for _, simpler := range simplerServices(svc) {
			try(func(c *model.World) { c.Services[i] = simpler })
		}
	}
	for i, slice := range w.Slices {
		out = append(out, simplerSlices(w, i, slice)...)
	}
	if len(w.Node.Labels) > 0 {
		try(func(c *model.World) { c.Node.Labels = nil })
	}
	return out
}

// simplerSlices are worlds in which one endpoint of a slice says less.
func simplerSlices(w *model.World, i int, slice *discoveryv1.EndpointSlice) (out []*model.World) {
	for j := range slice.Endpoints {
		for _, simpler := range simplerEndpoints(slice.Endpoints[j]) {
			c := clone(w)
			c.Slices[i].Endpoints[j] = simpler
			out = append(out, c)
		}
	}
	return out
}

// simplerServices are a Service with one thing less each.
func simplerServices(svc *corev1.Service) (out []*corev1.Service) {
	try := func(change func(*corev1.Service)) {
		s := svc.DeepCopy()
		change(s)
		before, _ := json.Marshal(svc)
		after, _ := json.Marshal(s)
		if string(before) != string(after) {
			out = append(out, s)
		}
	}
	for i := range svc.Spec.Ports {
		if len(svc.Spec.Ports) > 1 {
			try(func(s *corev1.Service) { s.Spec.Ports = slices.Delete(s.Spec.Ports, i, i+1) })
		}
		try(func(s *corev1.Service) { s.Spec.Ports[i].NodePort = 0 })
	}
	try(func(s *corev1.Service) { s.Spec.ExternalIPs = nil })
	try(func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = nil })
	for i := range svc.Status.LoadBalancer.Ingress {
		try(func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = slices.Delete(s.Status.LoadBalancer.Ingress, i, i+1)
		})
	}
	try(func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = nil })
	try(func(s *corev1.Service) { s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = "", nil })
	try(func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = nil })
	try(func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "" })
	try(func(s *corev1.Service) { s.Spec.TrafficDistribution = nil })
	try(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses, s.Spec.LoadBalancerIP = false, "" })
	if len(svc.Spec.ClusterIPs) > 1 {
		try(func(s *corev1.Service) {
			s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1]
			s.Spec.IPFamilies = s.Spec.IPFamilies[:min(len(s.Spec.IPFamilies), 1)]
		})
	}
	return out
}

// simplerEndpoints are an endpoint with one thing less each.
func simplerEndpoints(e discoveryv1.Endpoint) (out []discoveryv1.Endpoint) {
	if e.Hints != nil {
		simpler := *e.DeepCopy()
		simpler.Hints = nil
		out = append(out, simpler)
	}
	if e.Conditions != (discoveryv1.EndpointConditions{}) {
		simpler := *e.DeepCopy()
		simpler.Conditions = discoveryv1.EndpointConditions{}
		out = append(out, simpler)
	}
	return out
}

// clone copies what candidates change.
func clone(w *model.World) *model.World {
	c := *w
	c.Services, c.Slices = nil, nil
	for _, s := range w.Services {
		c.Services = append(c.Services, s.DeepCopy())
	}
	for _, s := range w.Slices {
		c.Slices = append(c.Slices, s.DeepCopy())
	}
	return &c
}

package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service/model"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A connectionRequest asks the agent what the objects of the cluster say of a connection.
type connectionRequest struct {
	Client   string `json:"client,omitempty"` // its address, empty: one that nobody has
	Where    string `json:"where"`            // pod, node or outside
	To       string `json:"to"`
	Protocol string `json:"protocol"`
	Packets  bool   `json:"packets,omitempty"` // its packets are translated one by one
}

var clientKinds = map[string]model.ClientKind{"pod": model.LocalPod, "node": model.NodeItself, "outside": model.Outside}

func requestOf(q question) connectionRequest {
	r := connectionRequest{Where: "outside", To: q.To.String(), Protocol: protocolName(q.Protocol), Packets: q.packets}
	if q.Client.IsValid() {
		r.Client = q.Client.String()
	}
	switch {
	case q.Host:
		r.Where = "node"
	case q.Inside:
		r.Where = "pod"
	}
	return r
}

func (r connectionRequest) probe() (p model.Probe, err error) {
	kind, ok := clientKinds[r.Where]
	if !ok {
		return p, fmt.Errorf("where: %q is not pod, node or outside", r.Where)
	}
	p = model.Probe{Client: model.Client{Kind: kind}, Protocol: corev1.Protocol(r.Protocol), Packets: r.Packets}
	if r.Client != "" {
		if p.Client.Addr, err = netip.ParseAddr(r.Client); err != nil {
			return p, err
		}
	}
	p.To, err = netip.ParseAddrPort(r.To)
	return p, err
}

func (a *agent) explainObjects(_ context.Context, r connectionRequest) (verdictView, error) {
	t, err := bpf.Read(a.cfg.PinDir)
	if err != nil {
		return verdictView{}, err
	}
	return explainObjects(a.served.Load(), t, a.cfg, r)
}

// explainObjects decides by the rules alone, without what the planner made of the objects.
func explainObjects(s *cluster.Snapshot, t *bpf.Tables, cfg config, r connectionRequest) (verdictView, error) {
	p, err := r.probe()
	if err != nil {
		return verdictView{}, err
	}
	v := model.Decide(worldOf(s, t, cfg), p)
	view := verdictView{Outcome: v.Outcome.String(), Service: v.Port.String(), Rows: []rowView{}}
	for _, row := range v.Rows {
		view.Rows = append(view.Rows, rowView{row, model.Says(row)})
	}
	for _, b := range v.Backends {
		view.Backends = append(view.Backends, servingView{b.Addr.String(), isOfNode(t, b.Addr.Addr()), b.Source.String()})
	}
	return view, nil
}

// worldOf is a Snapshot in the model's form. What is no object is as the kernel has it: the node's addresses, and which of
// them have node ports, and where Services have their addresses.
func worldOf(s *cluster.Snapshot, t *bpf.Tables, cfg config) *model.World {
	w := &model.World{
		ProxyName: cfg.Services.ProxyName, NoExternalIPs: !cfg.Services.ExternalIPs, Node: model.Node{Name: cfg.NodeName, Addresses: t.Host},
	}
	if node := s.Node(cfg.NodeName); node != nil {
		w.Node.Labels = node.Labels
	}
	for _, n := range t.NodeAddresses {
		if !n.Addr.IsLoopback() {
			w.Node.Addresses = append(w.Node.Addresses, n.Addr)
		}
		if n.NodePorts {
			w.Node.NodePortAddresses = append(w.Node.NodePortAddresses, whole(n.Addr).String())
		}
	}
	for _, n := range t.Networks {
		if n.Way == bpf.WayService {
			w.ServiceCIDRs = append(w.ServiceCIDRs, n.Prefix)
		}
	}
	for svc := range s.Services() {
		w.Services = append(w.Services, objectsOf(svc)...)
		for _, slice := range s.Slices(svc.Name) {
			w.Slices = append(w.Slices, sliceObject(slice))
		}
	}
	return w
}

// whole is the network of one address; 127.0.0.1 stands for all of its own.
func whole(addr netip.Addr) netip.Prefix {
	if addr.Is4() && addr.IsLoopback() {
		return netip.MustParsePrefix("127.0.0.0/8")
	}
	return netip.PrefixFrom(addr, addr.BitLen())
}

// objectsOf is what a Service was made from, as far as it matters. Ports that the load balancer's address is not to be
// answered for (its listener does more than pass bytes on) are in an object without that address.
func objectsOf(svc *cluster.Service) (out []*corev1.Service) {
	for _, noShortcut := range []bool{false, true} {
		o := objectOfService(svc)
		for _, p := range svc.Ports {
			if p.NoShortcut == noShortcut {
				o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{
					Name: p.Name, Protocol: corev1.Protocol(p.Protocol.String()), Port: int32(p.Port), NodePort: int32(p.NodePort),
				})
			}
		}
		if noShortcut {
			o.Status = corev1.ServiceStatus{}
		}
		if len(o.Spec.Ports) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// objectOfService is one without ports.
func objectOfService(svc *cluster.Service) *corev1.Service {
	o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: svc.Name.Namespace, Name: svc.Name.Name, CreationTimestamp: metav1.NewTime(svc.Created),
	}}
	if svc.NamesProxy {
		o.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": svc.ProxyName}
	}
	if svc.ExternalName != "" {
		o.Spec.Type = corev1.ServiceTypeExternalName
	}
	for _, a := range svc.ClusterIPs {
		o.Spec.ClusterIPs = append(o.Spec.ClusterIPs, a.String())
	}
	for _, a := range svc.ExternalIPs {
		o.Spec.ExternalIPs = append(o.Spec.ExternalIPs, a.String())
	}
	for _, a := range svc.LoadBalancerIPs {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
	}
	for _, r := range svc.SourceRanges {
		o.Spec.LoadBalancerSourceRanges = append(o.Spec.LoadBalancerSourceRanges, r.String())
	}
	if svc.InternalLocal {
		local := corev1.ServiceInternalTrafficPolicyLocal
		o.Spec.InternalTrafficPolicy = &local
	}
	if svc.ExternalLocal {
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	return o
}

func sliceObject(s *cluster.EndpointSlice) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Name.Namespace, Name: s.Name.Name, Labels: map[string]string{discoveryv1.LabelServiceName: s.Service.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	if s.Headless {
		o.Labels[corev1.IsHeadlessService] = ""
	}
	for _, p := range s.Ports {
		protocol, number := corev1.Protocol(p.Protocol.String()), int32(p.Port)
		o.Ports = append(o.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &protocol, Port: &number})
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if e.Addr.Is6() {
			o.AddressType = discoveryv1.AddressTypeIPv6
		}
		o.Endpoints = append(o.Endpoints, endpointObject(e))
	}
	return o
}

func endpointObject(e *cluster.Endpoint) discoveryv1.Endpoint {
	o := discoveryv1.Endpoint{
		Addresses: []string{e.Addr.String()}, NodeName: &e.NodeName, Zone: &e.Zone,
		Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
	}
	if len(e.ForNodes)+len(e.ForZones) > 0 {
		o.Hints = &discoveryv1.EndpointHints{}
	}
	for _, n := range e.ForNodes {
		o.Hints.ForNodes = append(o.Hints.ForNodes, discoveryv1.ForNode{Name: n})
	}
	for _, z := range e.ForZones {
		o.Hints.ForZones = append(o.Hints.ForZones, discoveryv1.ForZone{Name: z})
	}
	return o
}

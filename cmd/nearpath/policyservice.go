package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// servicePrefix begins what names a Service, as pods have no kind before their names.
const servicePrefix = "service/"

// serviceOf is the Service that is called so, or that has the address; nil for others.
func serviceOf(snapshot *cluster.Snapshot, text string) *cluster.Service {
	if name, ok := strings.CutPrefix(text, servicePrefix); ok {
		namespace, name, _ := strings.Cut(name, "/")
		return snapshot.Service(cluster.Name{Namespace: namespace, Name: name})
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return nil
	}
	return snapshot.ServiceByIP(addr.Unmap())
}

// explainPolicyOf asks about each backend that a Service gives the source, as the objects have it: policies judge those.
func (a *agent) explainPolicyOf(svc *cluster.Service, snapshot *cluster.Snapshot, pods []localPod, r policyRequest) (policyAnswer, error) {
	sources, err := endsOf(snapshot, pods, r.From)
	if err != nil {
		return policyAnswer{}, err
	}
	from, to, err := serviceEnds(svc, sources, r)
	if err != nil {
		return policyAnswer{}, err
	}
	where := "outside"
	switch {
	case from.local != nil:
		where = "pod"
	case slices.Contains(a.host.Addrs(), from.addr):
		where = "node"
	}
	t, err := bpf.Read(a.cfg.PinDir)
	if err != nil {
		return policyAnswer{}, err
	}
	served, err := explainObjects(snapshot, t, a.cfg, connectionRequest{
		Client: from.addr.String(), Where: where, To: netip.AddrPortFrom(to, r.Port).String(), Protocol: policyProtocolName(r.Protocol),
	})
	if err != nil {
		return policyAnswer{}, err
	}
	if len(served.Backends) == 0 {
		return policyAnswer{}, fmt.Errorf("no backend of Service %s for %s at %s port %d: %s", svc.Name, r.From, policyProtocolName(r.Protocol), r.Port, served.Outcome)
	}
	answer := policyAnswer{
		From: from.view(), To: endView{Service: svc.Name.String(), Address: to}, Protocol: policyProtocolName(r.Protocol), Port: r.Port, Allowed: true,
	}
	for _, b := range served.Backends {
		at, err := netip.ParseAddrPort(b.Backend)
		if err != nil {
			return policyAnswer{}, err
		}
		one, err := a.explainPolicy(policyRequest{From: from.addr.String(), To: at.Addr().String(), Protocol: r.Protocol, Port: at.Port()})
		if err != nil {
			return policyAnswer{}, err
		}
		answer.Allowed = answer.Allowed && one.Allowed
		answer.Backends = append(answer.Backends, one)
	}
	return answer, nil
}

// serviceEnds are the source's address and the Service's of one family: the one that was given, if it was.
func serviceEnds(svc *cluster.Service, sources []policyEnd, r policyRequest) (from policyEnd, to netip.Addr, err error) {
	addrs := svc.ClusterIPs
	if given, err := netip.ParseAddr(r.To); err == nil {
		addrs = []netip.Addr{given.Unmap()}
	}
	for _, from := range sources {
		for _, to := range addrs {
			if from.addr.Is4() == to.Is4() {
				return from, to, nil
			}
		}
	}
	return from, to, fmt.Errorf("%s and Service %s have no addresses of one family", r.From, svc.Name)
}

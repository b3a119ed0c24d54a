package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
	"github.com/nearpath/nearpath/internal/policy/interpret"
)

// registerPolicyViews adds what "nearpath get policies" and "nearpath explain policy" ask, and the events.
func (a *agent) registerPolicyViews(api *agentapi.Server) {
	if a.policy == nil {
		api.Handle(policiesPath, func(context.Context) (any, error) {
			return policiesView{Policies: []policyView{}, Pods: []policyPodView{}, Maps: []policyMapView{}}, nil
		})
		return
	}
	api.Handle(policiesPath, func(context.Context) (any, error) {
		v, err := a.policy.view()
		v.Maps = append(v.Maps, a.tracked.use())
		return v, err
	})
	agentapi.Serve(api, dropsPath, a.drops.serve)
	agentapi.Serve(api, explainPolicyPath, func(_ context.Context, r policyRequest) (any, error) { return a.explainPolicy(r) })
}

// view is what this node makes of policies.
func (s *policySync) view() (policiesView, error) {
	pods := s.local()
	counts, err := countsByPod(pods, s.cfg.Kernel)
	if err != nil {
		return policiesView{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := policiesView{Enforced: true, Generation: s.cfg.Kernel.Generation(), Policies: []policyView{}, Pods: []policyPodView{}}
	v.Failure = s.trouble()
	subjects := map[string][]string{}
	for _, p := range pods {
		one := policyPodView{
			Pod: p.name().String(), Addresses: texts(p.Addrs), Generation: s.enforced[p.key()],
			Ingress: s.isolating(p, policy.Ingress), Egress: s.isolating(p, policy.Egress),
		}
		for _, c := range counts[p.name()] {
			one.Denied += c.Denied + c.Unknown + c.Full
			one.Full += c.Full
		}
		v.Pods = append(v.Pods, one)
		for _, by := range slices.Concat(one.Ingress, one.Egress) {
			if !slices.Contains(subjects[by], one.Pod) {
				subjects[by] = append(subjects[by], one.Pod)
			}
		}
	}
	v.Maps = policyUse(s.cfg.Kernel)
	if s.snapshot != nil {
		v.Policies = append(v.Policies, policyViews(s.snapshot, subjects, s.refused, s.failure)...)
	}
	return v, nil
}

// trouble is why the kernel may not enforce what the cluster wants now, empty if it does. The caller holds mu.
func (s *policySync) trouble() string {
	if s.failure != nil {
		return s.failure.Error()
	}
	if s.cfg.Unread == nil {
		return ""
	}
	if err := s.cfg.Unread(); err != nil {
		return "the API server does not let all be read: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}

// policyViews lists the objects, with the pods that each selects by the object's text. noRoom are those that do not fit.
func policyViews(snapshot *cluster.Snapshot, subjects map[string][]string, noRoom map[policy.Ref]string, failure error) (views []policyView) {
	add := func(ref policy.Ref, refused string) {
		name := ref.Name
		refused = cmp.Or(refused, noRoom[ref])
		v := policyView{Kind: ref.Kind, Namespace: name.Namespace, Name: name.Name, State: policyEnforced, Reason: refused, Subjects: []string{}}
		v.Subjects = append(v.Subjects, subjects[ref.String()]...)
		switch {
		case refused != "":
			v.State = policyRefused
		case failure != nil:
			v.State = policyPending
		}
		views = append(views, v)
	}
	for p := range snapshot.NetworkPolicies() {
		add(policy.Ref{Kind: "NetworkPolicy", Name: p.Name}, p.Refused)
	}
	for p := range snapshot.ClusterNetworkPolicies() {
		add(policy.Ref{Kind: "ClusterNetworkPolicy", Name: p.Name}, p.Refused)
	}
	for p := range snapshot.CalicoPolicies() {
		kind := "crd.NetworkPolicy"
		if p.Global() {
			kind = "crd.GlobalNetworkPolicy"
		}
		add(policy.Ref{Kind: kind, Name: p.Name}, p.Refused)
	}
	slices.SortFunc(views, func(a, b policyView) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return views
}

// explainPolicy says what becomes of a new connection, by the objects and by the kernel.
func (a *agent) explainPolicy(r policyRequest) (policyAnswer, error) {
	pods := a.policy.local()
	world, ok := a.policyWorld(pods)
	if !ok {
		return policyAnswer{}, errors.New("no policies are known yet")
	}
	if svc := serviceOf(world.Snapshot, r.To); svc != nil {
		return a.explainPolicyOf(svc, world.Snapshot, pods, r)
	}
	from, to, err := policyEnds(world.Snapshot, pods, r)
	if err != nil {
		return policyAnswer{}, err
	}
	tracked, err := a.datapath.Tracked.List()
	if err != nil {
		return policyAnswer{}, err
	}
	answer := policyAnswer{From: from.view(), To: to.view(), Protocol: policyProtocolName(r.Protocol), Port: r.shownPort()}
	for _, d := range []struct {
		ingress   bool
		end, peer policyEnd
		to        *directionAnswer
	}{{false, from, to, &answer.Egress}, {true, to, from, &answer.Ingress}} {
		v := world.Verdict(interpret.Question{Pod: d.end.pod, Ingress: d.ingress, Peer: d.peer.addr, Protocol: cluster.Protocol(r.Protocol), Port: r.Port})
		*d.to = directionAnswer{Allowed: v.Allowed, Rule: v.String()}
		if d.end.local == nil {
			continue
		}
		if d.to.Kernel, err = a.policy.kernelVerdict(*d.end.local, d.ingress, d.peer.addr, r.point()); err != nil {
			return policyAnswer{}, err
		}
		if v.Reason == interpret.OwnNode || v.Reason == interpret.Itself { // which the programs do not look up
			d.to.Kernel.Allowed, d.to.Kernel.Unasked = true, true
		}
		d.to.Kernel.Tracked = trackedTexts(tracked, *d.end.local, r, from.addr, to.addr)
	}
	answer.Allowed = answer.Egress.Allowed && answer.Ingress.Allowed
	return answer, nil
}

// policyWorld is what verdicts by the objects depend on, as it was planned for last; false if nothing was.
func (a *agent) policyWorld(pods []localPod) (*interpret.World, bool) {
	a.policy.mu.Lock()
	defer a.policy.mu.Unlock()
	w := &interpret.World{
		Snapshot: a.policy.snapshot, Local: map[netip.Addr]cluster.Name{}, Node: a.host.Addrs(), Listeners: a.cfg.DNS.addresses(), DNS: a.dnsService,
		Domain: a.names.names.Addrs,
	}
	for _, p := range pods {
		for _, addr := range p.Addrs {
			w.Local[addr] = p.name()
		}
	}
	return w, w.Snapshot != nil
}

// shownPort is the port, or the type of ICMP.
func (r policyRequest) shownPort() uint16 {
	if isICMP(r.Protocol) {
		return r.Port >> 8
	}
	return r.Port
}

// A policyEnd is one end of a connection.
type policyEnd struct {
	addr  netip.Addr
	pod   cluster.Name // the zero Name: none is known to have the address
	local *localPod    // nil: not a pod of this node
}

func (e policyEnd) view() endView {
	v := endView{Address: e.addr, Here: e.local != nil}
	if e.pod != (cluster.Name{}) {
		v.Pod = e.pod.String()
	}
	return v
}

// policyEnds finds out who the two are, with addresses of one family.
func policyEnds(snapshot *cluster.Snapshot, pods []localPod, r policyRequest) (from, to policyEnd, err error) {
	sources, err := endsOf(snapshot, pods, r.From)
	if err != nil {
		return from, to, err
	}
	destinations, err := endsOf(snapshot, pods, r.To)
	if err != nil {
		return from, to, err
	}
	for _, from := range sources {
		for _, to := range destinations {
			if from.addr.Is4() == to.addr.Is4() {
				return from, to, nil
			}
		}
	}
	return from, to, fmt.Errorf("%s and %s have no addresses of one family", r.From, r.To)
}

// endsOf are the addresses of a pod, or one that is given.
func endsOf(snapshot *cluster.Snapshot, pods []localPod, text string) (ends []policyEnd, err error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return []policyEnd{endAt(snapshot, pods, addr.Unmap())}, nil
	}
	namespace, name, ok := strings.Cut(text, "/")
	if !ok {
		return nil, fmt.Errorf("%q is neither an address nor a pod's NAMESPACE/NAME", text)
	}
	who := cluster.Name{Namespace: namespace, Name: name}
	for _, p := range pods {
		if p.name() == who {
			for _, addr := range p.Addrs {
				ends = append(ends, policyEnd{addr, who, &p})
			}
		}
	}
	if pod := snapshot.PolicyPod(who); pod != nil && len(ends) == 0 {
		for _, addr := range pod.Addrs {
			ends = append(ends, policyEnd{addr: addr, pod: who})
		}
	}
	if len(ends) == 0 {
		return nil, fmt.Errorf("no pod %s is known that has an address", who)
	}
	return ends, nil
}

func endAt(snapshot *cluster.Snapshot, pods []localPod, addr netip.Addr) policyEnd {
	for _, p := range pods {
		if slices.Contains(p.Addrs, addr) {
			return policyEnd{addr, p.name(), &p}
		}
	}
	if pod := snapshot.PolicyPodByIP(addr); pod != nil {
		return policyEnd{addr: addr, pod: pod.Name}
	}
	return policyEnd{addr: addr}
}

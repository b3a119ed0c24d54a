package interpret

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/labelexpr"
)

// An endpoint is what selectors of Calico find: a pod, or a set of networks.
type endpoint struct {
	namespace, account string // empty for a set of the cluster; for a set
	labels             map[string]string
	pod                bool
}

func podEndpoint(pod *cluster.PolicyPod) endpoint {
	return endpoint{namespace: pod.Name.Namespace, account: pod.ServiceAccount, labels: pod.Labels, pod: true}
}

// label is a label of the endpoint, with those that Calico gives it.
func (e endpoint) label(name string) (string, bool) {
	switch {
	case e.namespace != "" && (name == "projectcalico.org/namespace" || name == "pcns.projectcalico.org/name"):
		return e.namespace, true
	case e.account != "" && (name == "projectcalico.org/serviceaccount" || name == "pcsa.projectcalico.org/name"):
		return e.account, true
	case e.pod && name == "projectcalico.org/orchestrator":
		return "k8s", true
	}
	value, ok := e.labels[name]
	return value, ok
}

// holds evaluates an expression about an endpoint; one that cannot be read holds for nothing.
func holds(text string, of labelexpr.Place) bool {
	e, err := labelexpr.Parse(text)
	return err == nil && e.Holds(of)
}

func (e endpoint) is(text string) bool {
	return holds(text, labelexpr.Place{All: true, Labels: e.label})
}

// inNamespace evaluates an expression about the endpoint's namespace. A set of the cluster is in none: only global() holds for it.
func (e endpoint) inNamespace(c *packet, text string) bool {
	if e.namespace == "" {
		return holds(text, labelexpr.Place{Global: true, Labels: func(string) (string, bool) { return "", false }})
	}
	labels := c.Snapshot.NamespaceLabels(e.namespace)
	return holds(text, labelexpr.Place{All: true, Labels: func(name string) (string, bool) {
		if name == "projectcalico.org/name" {
			return e.namespace, true
		}
		value, ok := labels[name]
		return value, ok
	}})
}

func calicoPolicy(in *cluster.CalicoPolicy) policy {
	kind := "crd.NetworkPolicy"
	if in.Global() {
		kind = "crd.GlobalNetworkPolicy"
	}
	namespace := in.Name.Namespace
	return policy{
		Policy: Policy{kind, in.Name}, order: orderOf(in.Spec.Order), name: in.SortName,
		isolates: func(c *packet) bool {
			pod, direction := podEndpoint(c.pod), cluster.CalicoEgress
			if c.Ingress {
				direction = cluster.CalicoIngress
			}
			return slices.Contains(in.Spec.Types, direction) && (namespace == "" || namespace == pod.namespace) &&
				pod.inNamespace(c, in.Spec.NamespaceSelector) && pod.is(in.Spec.Selector)
		},
		rule: func(c *packet, i int) (action, bool, bool) {
			rules := in.Spec.Egress
			if c.Ingress {
				rules = in.Spec.Ingress
			}
			if i == len(rules) {
				return 0, false, false
			}
			r := &rules[i]
			does := map[string]action{
				cluster.CalicoAllow: allow, cluster.CalicoDeny: deny, cluster.CalicoPass: pass, cluster.CalicoLog: log,
			}[r.Action]
			return does, slices.ContainsFunc(c.faces, func(f face) bool { return calicoRule(c, namespace, r, f) }), true
		},
	}
}

// calicoRule reports whether all that the rule says is so.
func calicoRule(c *packet, namespace string, r *cluster.CalicoRule, f face) bool {
	own, other := &r.Source, &r.Destination
	if c.Ingress {
		own, other = other, own
	}
	protocol := cluster.CalicoProtocol(c.Protocol)
	switch {
	case r.IPVersion != nil && f.addr.Is4() != (*r.IPVersion == 4),
		r.Protocol != nil && *r.Protocol != protocol,
		r.NotProtocol != nil && *r.NotProtocol == protocol,
		r.ICMP != nil && !calicoMessage(c, r.ICMP),
		r.NotICMP != nil && r.NotICMP.Type != nil && calicoMessage(c, r.NotICMP):
		return false
	}
	return calicoPorts(c, r, f) && calicoOwn(c, namespace, own) && calicoPeer(c, namespace, other, f)
}

// calicoMessage reports whether the packet has that type and code. The rule names the protocol, so what is asked is ICMP.
func calicoMessage(c *packet, m *cluster.CalicoICMP) bool {
	return (m.Type == nil || *m.Type == int(c.Port>>8)) && (m.Code == nil || *m.Code == int(c.Port&0xff))
}

// calicoPorts looks at those of the destination: those of the source are not supported. Numbers are of the rule's protocol, names
// of any if it has none.
func calicoPorts(c *packet, r *cluster.CalicoRule, f face) bool {
	_, got := c.destination(f)
	matches := func(p cluster.CalicoPort) bool {
		if p.Name != "" {
			return c.named(f, p.Name)
		}
		return p.First <= got && got <= p.Last
	}
	d := &r.Destination
	return (len(d.Ports) == 0 || slices.ContainsFunc(d.Ports, matches)) && !slices.ContainsFunc(d.NotPorts, matches)
}

// calicoOwn asks the end that the policy selects.
func calicoOwn(c *packet, namespace string, e *cluster.CalicoEntity) bool {
	pod := podEndpoint(c.pod)
	return (!hasSelector(e, namespace) || pod.selected(c, namespace, e)) && (e.NotSelector == "" || !pod.is(e.NotSelector))
}

// calicoPeer asks the other end: its address, and whatever endpoint has the address.
func calicoPeer(c *packet, namespace string, e *cluster.CalicoEntity, f face) bool {
	within := func(text string) bool {
		net, err := cluster.ParseCalicoNet(text)
		return err == nil && net.Contains(f.addr)
	}
	if len(e.Nets) > 0 && !slices.ContainsFunc(e.Nets, within) || slices.ContainsFunc(e.NotNets, within) {
		return false
	}
	all := c.endpoints(f)
	if e.NotSelector != "" && slices.ContainsFunc(all, func(x endpoint) bool { return x.is(e.NotSelector) }) {
		return false
	}
	return !hasSelector(e, namespace) || slices.ContainsFunc(all, func(x endpoint) bool { return x.selected(c, namespace, e) })
}

// hasSelector reports whether only endpoints match, and not any address. In a policy of a namespace notSelector, too, is about
// endpoints of that namespace (libcalico-go/lib/backend/syncersv1/updateprocessors/rules.go).
func hasSelector(e *cluster.CalicoEntity, namespace string) bool {
	return e.Selector != "" || e.NamespaceSelector != "" || e.ServiceAccounts != nil || e.NotSelector != "" && namespace != ""
}

func (e endpoint) selected(c *packet, namespace string, by *cluster.CalicoEntity) bool {
	if by.NamespaceSelector != "" {
		if !e.inNamespace(c, by.NamespaceSelector) {
			return false
		}
	} else if namespace != "" && namespace != e.namespace {
		return false
	}
	if a := by.ServiceAccounts; a != nil && len(a.Names) > 0 && (!e.pod || !slices.Contains(a.Names, e.account)) {
		return false
	}
	return e.is(by.Selector)
}

// endpoints are the pod and all the sets that have the address.
func (c *packet) endpoints(f face) []endpoint {
	var all []endpoint
	if f.pod != nil {
		all = append(all, podEndpoint(f.pod))
	}
	for set := range c.Snapshot.CalicoNetworkSets() {
		if slices.ContainsFunc(set.Nets, func(net netip.Prefix) bool { return net.Contains(f.addr) }) {
			all = append(all, endpoint{namespace: set.Name.Namespace, labels: set.Labels})
		}
	}
	return all
}

package interpret

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func clusterYAML(tier, name string, priority int, rules string) string {
	return fmt.Sprintf(`---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: %s}
spec: {tier: %s, priority: %d, subject: {namespaces: {matchLabels: {ns: x}}}, %s}
`, name, tier, priority, rules)
}

func admin(name string, priority int, rules string) string {
	return clusterYAML("Admin", name, priority, rules)
}

func baseline(name string, priority int, rules string) string {
	return clusterYAML("Baseline", name, priority, rules)
}

const (
	fromW  = "from: [{namespaces: {matchLabels: {ns: w}}}]"
	fromWB = "from: [{pods: {namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}}]"
)

func TestClusterTiers(t *testing.T) {
	t.Parallel()
	// Admin decides before, Baseline behind NetworkPolicies, and none isolates.
	of(t, admin("a", 1, "ingress: [{action: Deny, "+fromW+"}]")+policyYAML("p", "podSelector: {}, ingress: [{}]")).expect(t, `
		- ingress x/a w/b TCP 80
		+ ingress x/a z/b TCP 80
		+ ingress w/a w/b TCP 80`)
	of(t, admin("a", 1, "ingress: [{action: Accept, "+fromW+"}]")+policyYAML("p", "podSelector: {}")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a z/b TCP 80`)
	of(t, baseline("b", 1, "ingress: [{action: Deny, "+fromW+"}]")+policyYAML("p", "podSelector: {matchLabels: {pod: a}}, ingress: [{}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/b w/b TCP 80
		+ ingress x/b z/b TCP 80`)
	// A pod that is isolated for ingress is still Baseline's for egress.
	of(t, baseline("b", 1, "egress: [{action: Deny, to: [{namespaces: {}}]}]")+policyYAML("p", "podSelector: {}, ingress: [{}]")).expect(t, `
		- egress x/a w/b TCP 80
		+ egress x/a 192.0.2.1 TCP 80`)
	// Pass leaves the tier, and only that.
	of(t, admin("a", 1, "ingress: [{action: Pass, "+fromWB+"}, {action: Deny, "+fromW+"}]")+admin("c", 2, "ingress: [{action: Deny, "+fromWB+"}]")+
		baseline("b", 1, "ingress: [{action: Pass, "+fromWB+", protocols: [{tcp: {destinationPort: {number: 81}}}]}, {action: Deny, "+fromWB+"}]")).expect(t, `
		- ingress x/a w/b TCP 80
		+ ingress x/a w/b TCP 81
		- ingress x/a w/c TCP 81`)
	of(t, admin("a", 1, "ingress: [{action: Pass, "+fromW+"}]")+policyYAML("p", "podSelector: {}")).expect(t, "- ingress x/a w/b TCP 80")
}

func TestClusterPriorities(t *testing.T) {
	t.Parallel()
	deny, accept := "ingress: [{action: Deny, "+fromW+"}]", "ingress: [{action: Accept, "+fromW+"}]"
	of(t, admin("a", 2, deny)+admin("b", 1, accept)).expect(t, "+ ingress x/a w/b TCP 80")
	of(t, admin("a", 10, accept)+admin("b", 9, deny)).expect(t, "- ingress x/a w/b TCP 80")
	of(t, admin("a", 0, accept)+admin("b", 1000, deny)).expect(t, "+ ingress x/a w/b TCP 80")
	of(t, admin("a", 5, deny)+admin("b", 5, accept)).expect(t, "- ingress x/a w/b TCP 80") // equal ones by name
	of(t, admin("a", 1, "ingress: [{action: Accept, "+fromWB+"}, {action: Deny, "+fromW+"}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a w/c TCP 80`)
}

func TestClusterPeersAndProtocols(t *testing.T) {
	t.Parallel()
	w := of(t, `---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {zone: a}}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: ExternalIP, address: 203.0.113.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: n3, labels: {zone: b}}
status: {addresses: [{type: InternalIP, address: 192.168.0.3}]}
`+admin("a", 1, `egress: [
  {action: Accept, to: [{nodes: {matchLabels: {zone: a}}}], protocols: [{tcp: {destinationPort: {number: 10250}}}]},
  {action: Accept, to: [{networks: [10.0.2.0/24, 'fd00::2:0/112']}], protocols: [{udp: {}}, {sctp: {destinationPort: {range: {start: 10, end: 12}}}}]},
  {action: Accept, to: [{domainNames: ['*.example.com']}]},
  {action: Accept, to: [{pods: {namespaceSelector: {}, podSelector: {}}}], protocols: [{destinationNamedPort: web}, {destinationNamedPort: dns}]},
  {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]`))
	w.Domain = func(name string) []netip.Addr {
		if name != "*.example.com" {
			t.Errorf("asked for %s", name)
		}
		return []netip.Addr{netip.MustParseAddr("192.0.2.80")}
	}
	w.expect(t, `
		+ egress x/a 192.168.0.2 TCP 10250
		+ egress x/a 203.0.113.2 TCP 10250
		- egress x/a 192.168.0.2 TCP 10251
		- egress x/a 192.168.0.3 TCP 10250
		+ egress x/a w/b UDP 9
		+ egress x/a w/b6 UDP 9
		- egress x/a w/b SCTP 9
		+ egress x/a w/b SCTP 10
		+ egress x/a w/b SCTP 12
		- egress x/a w/b SCTP 13
		- egress x/a w/b ICMP 8/0
		+ egress x/a 192.0.2.80 TCP 443
		+ egress x/a 192.0.2.80 ICMP 8/0
		- egress x/a 192.0.2.81 TCP 443
		+ egress x/a z/b TCP 81
		- egress x/a z/b TCP 80
		+ egress x/a z/b UDP 53
		- egress x/a z/b TCP 53`)
}

// A peer of a later version of the API closes its rule.
func TestClusterUnknownPeers(t *testing.T) {
	t.Parallel()
	of(t, admin("a", 1, "ingress: [{action: Accept, from: [{later: 1}, {namespaces: {}}]}, {action: Deny, "+fromW+"}]")).expect(t, "- ingress x/a w/b TCP 80\n+ ingress x/a z/b TCP 80")
	for _, action := range []string{"Deny", "Pass"} {
		of(t, admin("a", 1, "ingress: [{action: "+action+", from: [{later: 1}], protocols: [{tcp: {destinationPort: {number: 1}}}]}]")).expect(t, "- ingress x/a z/b TCP 80")
	}
}

func calicoYAML(name, namespace, spec string) string {
	kind, place := "NetworkPolicy", ", namespace: "+namespace
	if namespace == "" {
		kind, place = "GlobalNetworkPolicy", ""
	}
	return fmt.Sprintf("---\napiVersion: crd.projectcalico.org/v1\nkind: %s\nmetadata: {name: %s%s}\nspec: {%s}\n", kind, name, place, spec)
}

func TestCalicoOrderAndActions(t *testing.T) {
	t.Parallel()
	// What no rule matches is denied, for pods that are selected in that direction.
	of(t, calicoYAML("p", "x", "selector: pod == 'a', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, '90:92', web]}}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		+ ingress x/a w/b TCP 91
		- ingress x/a w/b TCP 93
		- ingress x/a w/b UDP 80
		+ egress x/a w/b TCP 93
		+ ingress x/b w/b TCP 93
		+ ingress w/a w/b TCP 93`)
	allow, deny := "ingress: [{action: Allow}]", "ingress: [{action: Deny}]"
	of(t, calicoYAML("b", "x", "order: 1, "+allow)+calicoYAML("a", "x", "order: 2, "+deny)).expect(t, "+ ingress x/a w/b TCP 80")
	of(t, calicoYAML("b", "x", allow)+calicoYAML("a", "", "order: 2, "+deny)).expect(t, "- ingress x/a w/b TCP 80")
	of(t, calicoYAML("b", "x", "order: 1, "+allow)+calicoYAML("a", "", "order: 1, "+deny)).expect(t, "- ingress x/a w/b TCP 80")
	// NetworkPolicies are of order 1000.
	of(t, calicoYAML("c", "x", "order: 999, "+deny)+policyYAML("p", "podSelector: {}, ingress: [{}]")).expect(t, "- ingress x/a w/b TCP 80")
	of(t, calicoYAML("c", "x", "order: 1001, "+deny)+policyYAML("p", "podSelector: {}, ingress: [{ports: [{port: 80}]}]")).expect(t, "+ ingress x/a w/b TCP 80\n- ingress x/a w/b TCP 81")
	// Log goes on, Pass leaves the tier.
	w := of(t, calicoYAML("c", "x", "ingress: [{action: Log, protocol: TCP}, {action: Allow, source: {selector: pod == 'b'}}]"))
	w.expect(t, "+ ingress x/a x/b TCP 80\n- ingress x/a x/c TCP 80\n- ingress x/a w/b TCP 80")
	for text, logged := range map[string]bool{"ingress x/a x/b TCP 80": true, "ingress x/a x/b UDP 80": false, "ingress x/a w/b TCP 80": true} {
		if got := w.Verdict(ask(t, w, text)); got.Logged != logged {
			t.Errorf("%s: logged %t", text, got.Logged)
		}
	}
	of(t, calicoYAML("c", "x", "ingress: [{action: Pass, protocol: TCP}, {action: Deny}]")+baseline("b", 1, "ingress: [{action: Deny, "+fromWB+"}]")).expect(t, `
		- ingress x/a w/b TCP 80
		+ ingress x/a w/c TCP 80
		- ingress x/a w/c UDP 80`)
}

func tierYAML(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: crd.projectcalico.org/v1\nkind: Tier\nmetadata: {name: %s}\nspec: {%s}\n", name, spec)
}

func TestCalicoTiers(t *testing.T) {
	t.Parallel()
	deny := func(tier string) string {
		return calicoYAML(tier+".p", "x", "tier: "+tier+", ingress: [{action: Deny, protocol: TCP}, {action: Pass}]")
	}
	allowAll := policyYAML("p", "podSelector: {}, ingress: [{}]")
	of(t, tierYAML("early", "order: 10")+deny("early")+allowAll).expect(t, "- ingress x/a w/b TCP 80\n+ ingress x/a w/b UDP 80")
	of(t, tierYAML("late", "order: 2000000")+deny("late")+allowAll).expect(t, "+ ingress x/a w/b TCP 80")
	of(t, tierYAML("late", "order: 2000000")+deny("late")).expect(t, "- ingress x/a w/b TCP 80\n+ ingress x/a w/b UDP 80")
	// Admin is a tier of order 1000.
	for order, sign := range map[string]string{"999": "-", "1001": "+"} {
		of(t, tierYAML("mine", "order: "+order)+deny("mine")+admin("a", 1, "ingress: [{action: Accept, "+fromW+"}]")).expect(t, sign+" ingress x/a w/b TCP 80")
	}
	// The end of a tier is Deny unless it says otherwise, for pods that its policies select.
	some := calicoYAML("mine.p", "x", "tier: mine, selector: pod == 'a', ingress: [{action: Allow, protocol: UDP}]")
	of(t, tierYAML("mine", "order: 10")+some+allowAll).expect(t, "- ingress x/a w/b TCP 80\n+ ingress x/a w/b UDP 80\n+ ingress x/b w/b TCP 80\n+ egress x/a w/b TCP 80")
	of(t, tierYAML("mine", "order: 10, defaultAction: Pass")+some+allowAll).expect(t, "+ ingress x/a w/b TCP 80")
	// A tier that is not there is the last.
	of(t, deny("nowhere")+baseline("b", 1, "ingress: [{action: Accept, "+fromWB+"}]")).expect(t, "+ ingress x/a w/b TCP 80\n- ingress x/a w/c TCP 80")
}

func TestCalicoEntities(t *testing.T) {
	t.Parallel()
	rule := func(namespace, text string) *World {
		return of(t, `---
apiVersion: crd.projectcalico.org/v1
kind: NetworkSet
metadata: {name: office, namespace: x, labels: {net: office}}
spec: {nets: [203.0.113.0/24, 10.0.3.1]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkSet
metadata: {name: bad, labels: {net: bad}}
spec: {nets: [198.51.100.0/24]}
`+calicoYAML("p", namespace, "selector: \"projectcalico.org/namespace == 'x'\", ingress: [{action: Allow, "+text+"}]"))
	}
	for _, row := range []struct{ namespace, rule, want string }{
		{"x", "source: {selector: pod == 'b'}", "+ x/b\n- w/b\n- x/c\n- 203.0.113.1"},
		{"", "source: {selector: pod == 'b'}", "+ x/b\n+ w/b\n- x/c"},
		{"x", "source: {namespaceSelector: ns == 'w'}", "- x/b\n+ w/b\n+ w/c6"},
		{"x", "source: {namespaceSelector: \"projectcalico.org/name == 'w'\", selector: pod != 'b'}", "- w/b\n+ w/c\n- x/c"},
		{"x", "source: {namespaceSelector: all(), selector: pod != 'b'}", "- w/b\n+ w/c\n+ x/c\n+ 203.0.113.1\n- 198.51.100.1"},
		{"x", "source: {namespaceSelector: global()}", "- w/c\n- x/c\n- 203.0.113.1\n+ 198.51.100.1"},
		{"x", "source: {notSelector: pod == 'b'}", "- x/b\n+ x/c\n- w/b\n- w/c\n- 192.0.2.1\n+ 203.0.113.1"},
		{"", "source: {notSelector: pod == 'b'}", "- x/b\n+ x/c\n- w/b\n+ w/c\n+ 192.0.2.1\n+ 198.51.100.1"},
		{"", "source: {notSelector: net == 'bad'}", "+ x/b\n+ 192.0.2.1\n- 198.51.100.1"},
		{"x", "source: {selector: net == 'office'}", "+ 203.0.113.1\n+ z/a\n- z/b\n- 192.0.2.1"},
		{"x", "source: {nets: [10.0.2.0/24, 203.0.113.7], notNets: [10.0.2.3/32]}", "+ w/b\n- w/c\n+ 203.0.113.7\n- 203.0.113.8\n- w/b6"},
		{"x", "source: {nets: [10.0.1.2], selector: pod == 'b'}", "+ x/b\n- w/b\n- x/b6"},
		{"x", "source: {notNets: [10.0.2.0/24]}", "- w/b\n+ w/b6\n+ x/b\n+ 192.0.2.1"},
		{"", "source: {serviceAccounts: {names: [sa-b]}}", "+ x/b\n+ w/b\n- x/c\n- 203.0.113.1"},
		{"x", "source: {serviceAccounts: {names: [sa-b]}}", "+ x/b\n- w/b"},
		{"x", "ipVersion: 6", "- w/b\n+ w/b6\n+ 2001:db8::1"},
		{"x", "notProtocol: TCP", "- w/b"},
		{"x", "notProtocol: UDP", "+ w/b"},
		{"x", "protocol: TCP, destination: {notPorts: [80]}", "- w/b"},
		{"x", "protocol: TCP, destination: {ports: ['70:90'], notPorts: [81]}", "+ w/b"},
		{"x", "destination: {selector: pod == 'a'}", "+ w/b"},
		{"x", "destination: {selector: pod == 'b'}", "- w/b"},
		{"x", "destination: {notSelector: pod == 'a'}", "- w/b"},
	} {
		w := rule(row.namespace, row.rule)
		for line := range strings.Lines(row.want) {
			sign, peer, _ := strings.Cut(strings.TrimSpace(line), " ")
			text := "ingress x/a " + peer + " TCP 80"
			if got := w.Verdict(ask(t, w, text)); got.Allowed != (sign == "+") {
				t.Errorf("{%s} of %q, %s: %s, want %s", row.rule, row.namespace, peer, got, sign)
			}
		}
	}
	rule("x", "protocol: ICMP, icmp: {type: 8}").expect(t, "+ ingress x/a w/b ICMP 8/0\n+ ingress x/a w/b ICMP 8/1\n- ingress x/a w/b ICMP 0/8\n- ingress x/a w/b6 ICMPv6 8/0")
	rule("x", "protocol: ICMP, icmp: {type: 3, code: 4}").expect(t, "+ ingress x/a w/b ICMP 3/4\n- ingress x/a w/b ICMP 3/3")
	rule("x", "protocol: ICMPv6, notICMP: {type: 128}").expect(t, "- ingress x/a w/b6 ICMPv6 128/0\n+ ingress x/a w/b6 ICMPv6 129/0\n- ingress x/a w/b TCP 80")
	rule("x", "protocol: 47").expect(t, "+ ingress x/a w/b GRE\n- ingress x/a w/b TCP 80")
}

func TestReasons(t *testing.T) {
	t.Parallel()
	w := of(t, policyYAML("one", "podSelector: {}, ingress: [{ports: [{port: 1}]}, {ports: [{port: 80}]}]")+policyYAML("two", "podSelector: {}")+
		admin("adm", 1, "ingress: [{action: Deny, "+fromW+"}]"))
	w.Node = []netip.Addr{netip.MustParseAddr("192.168.0.1")}
	for text, want := range map[string]string{
		"ingress x/a x/b TCP 80":       "allowed by NetworkPolicy x/one, ingress rule 1",
		"ingress x/a x/b TCP 81":       "denied by default for ingress of NetworkPolicy x/one, NetworkPolicy x/two",
		"ingress x/a w/b TCP 80":       "denied by ClusterNetworkPolicy adm, ingress rule 0",
		"egress x/a w/b TCP 80":        "allowed: not isolated for egress",
		"egress x/a 192.168.0.1 TCP 1": "allowed: the pod's own node",
		"ingress x/a x/a TCP 1":        "allowed: the pod itself",
		"ingress x/none x/a TCP 1":     "allowed: no pod that has a network of its own",
	} {
		if got := w.Verdict(ask(t, w, text)).String(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

//go:build node

package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// A row is policies and who is heard then. Its name begins with the reference rows that it is about.
type row struct {
	name     string
	policies string
	allowed  func(pair) bool
	kinds    []kind // nil: plain
	extras   []extra
	before   func(*testing.T) // changes what is no policy
}

// v1 is a NetworkPolicy.
func v1(namespace, name, spec string) string {
	return fmt.Sprintf("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", name, namespace, spec)
}

func cnp(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

func calicoGlobal(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

func always(pair) bool { return true }

// into is whether the pair ends in a namespace, from whether it begins there.
func into(namespace string) func(pair) bool {
	return func(p pair) bool { return p.to.namespace == namespace }
}

// TestTruth asks for every row everybody by everybody.
func TestTruth(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.rows() {
		t.Run(r.name, func(t *testing.T) {
			if r.before != nil {
				r.before(t)
			}
			w.enforce(t, r.policies)
			w.check(t, r)
		})
	}
}

func (w *world) rows() []row {
	all := append(w.isolationRows(), w.peerRows()...)
	all = append(all, w.subjectRows()...)
	all = append(all, w.addressRows()...)
	all = append(all, w.portRows()...)
	all = append(all, w.serviceRows()...)
	return append(all, w.otherAPIs()...)
}

func (w *world) isolationRows() []row {
	return []row{
		{name: "no policy", allowed: always},
		{
			name: "S1 S4 ingress of a namespace", policies: v1("x", "deny", "{podSelector: {}, policyTypes: [Ingress]}"),
			allowed: func(p pair) bool { return !into("x")(p) },
		},
		{
			name: "S1 egress of a namespace", policies: v1("x", "deny", "{podSelector: {}, policyTypes: [Egress]}"),
			allowed: func(p pair) bool { return p.from.namespace != "x" },
		},
		{
			name: "S5 types by default", policies: v1("x", "p", "{podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: v}}}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) && (p.from.namespace != "x" || p.to.namespace == "v") },
		},
		{
			name: "S4 expressions", policies: v1("x", "p", "{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a]}, {key: missing, operator: NotIn, values: [q]}]}, policyTypes: [Ingress]}"),
			allowed: func(p pair) bool { return !into("x")(p) || p.to.name == "a" },
		},
		{
			name:     "S6 everything by an empty rule",
			policies: v1("x", "deny", "{podSelector: {}, policyTypes: [Ingress]}") + v1("x", "all", "{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}"),
			allowed:  func(p pair) bool { return !into("x")(p) || p.to.name == "a" },
		},
		{
			name:     "S6 lists that are empty",
			policies: v1("x", "none", "{podSelector: {matchLabels: {pod: b}}, ingress: []}") + v1("x", "all", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [], ports: [{port: 80}]}]}") + v1("x", "any", "{podSelector: {matchLabels: {pod: c}}, ingress: [{ports: [], from: [{podSelector: {}}]}]}"),
			allowed: func(p pair) bool {
				switch {
				case !into("x")(p):
					return true
				case p.to.name == "c":
					return p.from.namespace == "x"
				}
				return p.to.name == "a" && p.network == "tcp" && p.port == 80
			},
		},
		{
			name: "S7 nobody by a selector", policies: v1("x", "p", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: nobody}}}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) },
		},
	}
}

func (w *world) peerRows() []row {
	return []row{
		{
			name: "S2 policies add up",
			policies: v1("x", "deny", "{podSelector: {}, policyTypes: [Ingress]}") + v1("x", "one", "{podSelector: {}, ingress: [{ports: [{port: 80}], from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: v}}}]}]}") +
				v1("x", "other", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}, {ports: [{port: 81}]}]}"),
			allowed: func(p pair) bool {
				if !into("x")(p) || (p.from.namespace == "v" && p.network == "tcp" && p.port == 80) {
					return true
				}
				return p.to.name == "a" && (p.from.namespace == "x" || (p.network == "tcp" && p.port == 81))
			},
		},
		{
			name: "S2 S8 one of two peers", policies: v1("x", "p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: v}}}]}]}"),
			allowed: func(p pair) bool {
				return p.to != w.find("x/a") || p.from == w.find("x/b") || p.from.namespace == "v"
			},
		},
		{
			name: "S8 both of one peer", policies: v1("x", "p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: v}}}]}]}"),
			allowed: func(p pair) bool { return p.to != w.find("x/a") || p.from == w.find("v/b") },
		},
		{
			name:     "S3 both directions",
			policies: v1("x", "out", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}") + v1("v", "in", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]}"),
			allowed: func(p pair) bool {
				return (p.from.namespace != "x" || p.to.isPod()) && (!into("v")(p) || p.from.namespace == "z")
			},
		},
		{
			name: "S14 a namespace gets a label", before: func(t *testing.T) { t.Helper(); w.relabel(t, "v", "team: red") },
			policies: v1("x", "p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}"),
			allowed:  func(p pair) bool { return !into("x")(p) || p.from.namespace == "v" },
		},
		{
			name: "S14 and loses it", before: func(t *testing.T) { t.Helper(); w.relabel(t, "v", "") },
			policies: v1("x", "p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}"),
			allowed:  func(p pair) bool { return !into("x")(p) },
		},
	}
}

// subjectRows are about what is, and is no more, a policy or a pod.
func (w *world) subjectRows() []row {
	fromV := "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: v}}}]}]}"
	good := func(p pair) bool { return !into("x")(p) || p.from.namespace == "v" }
	return []row{
		{name: "S39 a policy", policies: v1("x", "p", fromV), allowed: good},
		{name: "S39 and a version of it that is wrong", policies: v1("x", "p", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}"), allowed: good},
		{
			name: "S9 S39 a policy that never was right", policies: v1("x", "q", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 0.0.0.0/0}}]}]}"),
			allowed: func(p pair) bool { return p.to != w.find("x/a") },
		},
		{
			name: "S9 a peer in which nothing is known", policies: v1("x", "q", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{}, {podSelector: {matchLabels: {pod: b}}}]}]}"),
			allowed: func(p pair) bool { return p.to != w.find("x/a") || p.from == w.find("x/b") },
		},
		{
			name: "S13 S15 pods that have ended, and those of the host network", before: func(t *testing.T) { t.Helper(); w.haunt(t, true) },
			policies: v1("x", "p", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: ghost}}}]}]}"),
			allowed:  func(p pair) bool { return !into("x")(p) },
		},
		{name: "S30 policies are deleted", before: func(t *testing.T) { t.Helper(); w.haunt(t, false) }, allowed: always},
	}
}

// haunt has there be pods that no selector finds: those that have ended, with addresses that others have now, and one on the host network.
func (w *world) haunt(t *testing.T, there bool) {
	t.Helper()
	w.ghosts = ""
	if there {
		for name, at := range map[string]struct{ place, spec, phase string }{
			"ended": {"z/a", "", "Succeeded"}, "failed": {"z/c", "", "Failed"}, "host": {"n2", "hostNetwork: true, ", "Running"},
		} {
			p := w.find(at.place)
			w.ghosts += fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: x, labels: {pod: ghost}}\nspec: {%snodeName: %s, containers: [{name: c, image: c}]}\nstatus: {phase: %s, podIP: %s, podIPs: [{ip: %[5]s}, {ip: \"%[6]s\"}]}\n",
				name, at.spec, p.node, at.phase, p.addrs[0], p.addrs[1])
		}
	}
	w.writeObjects(t)
}

func (w *world) relabel(t *testing.T, namespace, labels string) {
	t.Helper()
	w.labels[namespace] = labels
	w.writeObjects(t)
}

// Networks that all pods have their addresses in, see sim.DualStackConfig.
const (
	podNetworks  = "10.0.64.0/20"
	podNetworks6 = "2001:db8:10:40::/64"
)

func block(network string, except ...netip.Addr) string {
	list := make([]string, len(except))
	for i, a := range except {
		list[i] = fmt.Sprintf("%q", netip.PrefixFrom(a, a.BitLen()))
	}
	return fmt.Sprintf("{ipBlock: {cidr: %q, except: [%s]}}", network, strings.Join(list, ", "))
}

func (w *world) addressRows() []row {
	xb, n2 := w.find("x/b"), w.find("n2")
	return []row{
		{
			name: "S10 S11 networks of pods, one excepted", policies: v1("x", "p", fmt.Sprintf("{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [%s, %s]}]}", block(podNetworks, xb.addrs[0]), block(podNetworks6, xb.addrs[1]))),
			allowed: func(p pair) bool { return p.to != w.find("x/a") || (p.from.isPod() && p.from != xb) },
		},
		{
			name: "S11 S19 what one excepts another allows", policies: v1("x", "p", fmt.Sprintf("{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}], from: [%s]}, {ports: [{port: 81}], from: [%s]}]}", block("10.0.0.0/8"), block(podNetworks, xb.addrs[0]))),
			allowed: func(p pair) bool {
				if p.to != w.find("x/a") {
					return true
				}
				if p.family == 1 || p.network != "tcp" {
					return false
				}
				return p.port == 80 || (p.from.isPod() && p.from != xb)
			},
		},
		{
			name: "S12 networks with bits of hosts, and IPv4 as IPv6", policies: v1("x", "p", fmt.Sprintf("{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}], from: [%s]}, {ports: [{port: 81}], from: [%s]}]}", block("10.0.79.9/20"), block("::ffff:10.0.64.0/116"))),
			allowed: func(p pair) bool {
				return p.to != w.find("x/a") || (p.from.isPod() && p.family == 0 && p.network == "tcp")
			},
		},
		{
			name: "S15 S22 a node by its address", policies: v1("x", "p", fmt.Sprintf("{podSelector: {}, ingress: [{from: [%s, %s]}]}", block(n2.addrs[0].String()+"/32"), block(n2.addrs[1].String()+"/128"))),
			allowed: func(p pair) bool { return !into("x")(p) || p.from == n2 },
		},
		{
			name: "S21 egress does not cut the own node", policies: v1("x", "p", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}"),
			allowed: func(p pair) bool { return p.from.namespace != "x" || p.to.namespace == "x" },
		},
		{
			name: "S38 IPv6 alone", policies: v1("x", "p", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: \"::/0\"}}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) || p.family == 1 },
		},
	}
}

func (w *world) portRows() []row {
	return []row{
		{
			name: "S16 S19 a range", policies: v1("x", "p", "{podSelector: {}, ingress: [{ports: [{port: 79, endPort: 80}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) || (p.network == "tcp" && p.port == 80) },
		},
		{
			name: "S16 a protocol", policies: v1("x", "p", "{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) || p.network == "udp" },
		},
		{
			name: "S33 S34 fragments, and options", kinds: odd,
			policies: v1("x", "in", "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{protocol: UDP, port: 80}]}]}") + v1("z", "out", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 81}]}]}"),
			allowed: func(p pair) bool {
				return (!into("x")(p) || p.port == 80) && (p.from.namespace != "z" || p.port == 81)
			},
		},
		{
			name: "S17 a name, ingress", policies: v1("x", "p", "{podSelector: {}, ingress: [{ports: [{port: web}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) || (p.network == "tcp" && p.port == p.to.web()) },
		},
		{
			name: "S17 a name, egress", policies: v1("x", "p", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}"),
			allowed: func(p pair) bool {
				return p.from.namespace != "x" || (p.to.isPod() && p.network == "tcp" && p.port == p.to.web())
			},
		},
		{
			name: "S18 SCTP alone", policies: v1("x", "p", "{podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) },
		},
	}
}

func (w *world) serviceRows() []row {
	var byService []extra
	for _, p := range w.pods {
		for _, vip := range vips {
			// x/a has itself for the Service's backend.
			byService = append(byService, extra{p, netip.AddrPortFrom(vip, 80).String(), p.namespace != "z" || p.name != "a"})
		}
	}
	outside := func(allowed bool) (list []extra) {
		for _, host := range w.hosts[:1] {
			for _, a := range host.addrs {
				list = append(list, extra{w.outside, netip.AddrPortFrom(a, nodePort).String(), allowed})
			}
		}
		return list
	}
	itself := make([]extra, 0, 2*len(vips))
	for _, vip := range vips {
		at := netip.AddrPortFrom(vip, 80).String()
		itself = append(itself, extra{w.find("x/a"), at, true}, extra{w.find("x/b"), at, false})
	}
	toA := func(p pair) bool { return p.to != w.find("x/a") }
	return []row{
		{
			name: "S20 egress counts behind the Service",
			policies: v1("z", "services", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: \"fd00:96::/112\"}}]}]}") +
				v1("z", "backend", "{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress], egress: [{ports: [{port: 81}], to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}}]}]}"),
			allowed: func(p pair) bool {
				switch p.from {
				case w.find("z/a"):
					return false
				case w.find("z/b"):
					return into("x")(p) && p.network == "tcp" && p.port == 81
				}
				return true
			},
			extras: byService,
		},
		{
			name: "S23 a client behind a node port is who it is", policies: v1("x", "p", fmt.Sprintf("{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [%s, %s]}]}", block(w.outside.addrs[0].String()+"/32"), block(w.outside.addrs[1].String()+"/128"))),
			allowed: toA, extras: outside(true),
		},
		{name: "S24 a pod by a Service that leads to it", policies: v1("x", "p", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]}"), allowed: toA, extras: itself},
		{name: "S23 and is not the node", policies: v1("x", "p", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]}"), allowed: toA, extras: outside(false)},
	}
}

func (w *world) otherAPIs() []row {
	return []row{
		{
			name: "a tier above denies what a NetworkPolicy allows",
			policies: v1("x", "all", "{podSelector: {}, ingress: [{}]}") +
				cnp("deny", "{tier: Admin, priority: 10, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: x}}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: v}}, podSelector: {matchLabels: {pod: b}}}}]}, {action: Deny, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: v}}}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) || p.from.namespace != "v" || p.from.name == "b" },
		},
		{
			name: "a tier below counts for who is not isolated",
			policies: v1("x", "p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}") +
				cnp("base", "{tier: Baseline, priority: 10, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: x}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]}"),
			allowed: func(p pair) bool { return !into("x")(p) || p.to.name == "a" || p.from.namespace != "z" },
		},
		{
			name: "Calico's by their order",
			policies: calicoGlobal("first", "{order: 10, types: [Ingress], namespaceSelector: \"kubernetes.io/metadata.name == 'x'\", ingress: [{action: Deny, source: {namespaceSelector: \"kubernetes.io/metadata.name == 'z'\"}}]}") +
				calicoGlobal("second", "{order: 20, types: [Ingress], namespaceSelector: \"kubernetes.io/metadata.name == 'x'\", ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}"),
			allowed: func(p pair) bool {
				return !into("x")(p) || (p.from.namespace != "z" && p.network == "tcp" && p.port == 80)
			},
		},
	}
}

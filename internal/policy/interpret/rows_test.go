package interpret

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/cluster"
)

// The tests of this file are rows of a list of what policies mean, by their ids there.

func TestS1IsolationIsPerPodAndDirection(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]")).expect(t, `
		- ingress x/a w/b TCP 80
		+ egress x/a w/b TCP 80
		+ ingress x/b w/b TCP 80
		+ ingress w/a w/b TCP 80`)
	of(t, policyYAML("p", "podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- egress x/a w/b TCP 80`)
}

func TestS2PoliciesAddUp(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("none", "podSelector: {}, policyTypes: [Ingress]")+
		policyYAML("web", "podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 81}]}]")+
		policyYAML("dns", "podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 53, protocol: UDP}]}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		+ ingress x/a w/b TCP 81
		+ ingress x/a w/b UDP 53
		- ingress x/b w/b UDP 53
		- ingress x/a w/b TCP 82`)
}

func TestS3BothEndsDecide(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]")+
		policyYAML("q", "podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress]")).expect(t, `
		+ egress x/a x/b TCP 80
		- ingress x/b x/a TCP 80
		+ ingress x/c x/a TCP 80`)
}

func TestS4Selectors(t *testing.T) {
	t.Parallel()
	for spec, lines := range map[string]string{
		"podSelector: {}": "- ingress x/a w/b TCP 80\n- ingress x/c w/b TCP 80\n+ ingress w/a w/b TCP 80",
		"podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}":           "- ingress x/a w/b TCP 80\n- ingress x/b w/b TCP 80\n+ ingress x/c w/b TCP 80",
		"podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}":           "+ ingress x/a w/b TCP 80\n- ingress x/b w/b TCP 80",
		"podSelector: {matchExpressions: [{key: missing, operator: NotIn, values: [a]}]}":       "- ingress x/a w/b TCP 80",
		"podSelector: {matchExpressions: [{key: pod, operator: Exists}]}":                       "- ingress x/a w/b TCP 80",
		"podSelector: {matchExpressions: [{key: pod, operator: DoesNotExist}]}":                 "+ ingress x/a w/b TCP 80",
		"podSelector: {matchLabels: {pod: a}, matchExpressions: [{key: ns, operator: Exists}]}": "+ ingress x/a w/b TCP 80",
	} {
		of(t, policyYAML("p", spec)).expect(t, lines)
	}
}

func TestS5PolicyTypes(t *testing.T) {
	t.Parallel()
	for spec, lines := range map[string]string{
		"podSelector: {}":                                            "- ingress x/a w/b TCP 80\n+ egress x/a w/b TCP 80",
		"podSelector: {}, egress: []":                                "- ingress x/a w/b TCP 80\n+ egress x/a w/b TCP 80",
		"podSelector: {}, egress: [{ports: [{port: 80}]}]":           "- ingress x/a w/b TCP 80\n+ egress x/a w/b TCP 80\n- egress x/a w/b TCP 81",
		"podSelector: {}, ingress: [{}], policyTypes: [Egress]":      "+ ingress x/a w/b TCP 80\n- egress x/a w/b TCP 80",
		"podSelector: {}, egress: [{}], policyTypes: [Ingress]":      "- ingress x/a w/b TCP 80\n+ egress x/a w/b TCP 80",
		"podSelector: {}, policyTypes: [Ingress, Egress]":            "- ingress x/a w/b TCP 80\n- egress x/a w/b TCP 80",
		"podSelector: {}, ingress: [{}], egress: [{}]":               "+ ingress x/a w/b TCP 80\n+ egress x/a w/b TCP 80",
		"podSelector: {}, policyTypes: [Egress], egress: [{to: []}]": "+ egress x/a w/b TCP 80",
	} {
		of(t, policyYAML("p", spec)).expect(t, lines)
	}
}

func TestS6EmptyAndMissingAreTheSame(t *testing.T) {
	t.Parallel()
	for spec, allowed := range map[string]bool{
		"podSelector: {}, ingress: []":                        false,
		"podSelector: {}, ingress: null":                      false,
		"podSelector: {}, ingress: [{}]":                      true,
		"podSelector: {}, ingress: [{from: []}]":              true,
		"podSelector: {}, ingress: [{from: null}]":            true,
		"podSelector: {}, ingress: [{ports: []}]":             true,
		"podSelector: {}, ingress: [{from: [], ports: null}]": true,
	} {
		lines := "+ ingress x/a w/b TCP 80\n+ ingress x/a 192.0.2.1 UDP 80\n+ ingress x/a 2001:db8::1 GRE"
		if !allowed {
			lines = strings.ReplaceAll(lines, "+", "-")
		}
		of(t, policyYAML("p", spec)).expect(t, lines)
	}
}

func TestS7PeersThatMatchNobodyAllowNothing(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: none}}}]}]")).expect(t, `
		- ingress x/a x/b TCP 80
		- ingress x/a 192.0.2.1 TCP 80`)
}

func TestS8SelectorsOfPeers(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]")).expect(t, `
		+ ingress x/a x/b TCP 80
		- ingress x/a x/c TCP 80
		- ingress x/a w/b TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]")).expect(t, `
		- ingress x/a x/b TCP 80
		+ ingress x/a w/b TCP 80
		+ ingress x/a w/c6 TCP 80
		- ingress x/a z/b TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}]}]")).expect(t, `
		- ingress x/a x/b TCP 80
		+ ingress x/a w/b TCP 80
		- ingress x/a w/c TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}, {podSelector: {matchLabels: {pod: b}}}]}]")).expect(t, `
		+ ingress x/a x/b TCP 80
		- ingress x/a x/c TCP 80
		+ ingress x/a w/c TCP 80
		- ingress x/a z/b TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]")).expect(t, `
		+ ingress x/a z/b TCP 80
		- ingress x/a 192.0.2.1 TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: w}}}]}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a z/b TCP 80`)
}

// A peer in which nothing is known that is set is of a later version of the API: an API server passes it on empty.
func TestS9UnknownPeersMatchNobody(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{}]}]")).expect(t, `
		- ingress x/a x/b TCP 80
		- ingress x/a 192.0.2.1 TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{}, {podSelector: {}}]}]")).expect(t, `
		+ ingress x/a x/b TCP 80
		- ingress x/a w/b TCP 80`)
}

func TestS10BlocksMatchWhoeverHasTheAddress(t *testing.T) {
	t.Parallel()
	w := of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.2.0/24}}]}]")+`---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 10.0.2.200}]}
`)
	w.expect(t, `
		+ ingress x/a w/b TCP 80
		+ ingress x/a 10.0.2.200 TCP 80
		+ ingress x/a 10.0.2.77 TCP 80
		- ingress x/a z/b TCP 80
		- ingress x/a w/b6 TCP 80`)
}

func TestS11ExceptionsAreOfTheirBlock(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 53}]}]")+
		policyYAML("q", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.2.0/24]}}], ports: [{port: 80}]}]")).expect(t, `
		+ egress x/a 10.1.2.3 TCP 53
		- egress x/a 10.1.2.3 TCP 80
		+ egress x/a 10.1.3.3 TCP 80
		+ egress x/a 10.1.3.3 TCP 53
		- egress x/a 10.2.0.1 TCP 80
		+ egress x/a 10.2.0.1 TCP 53
		- egress x/a 192.0.2.1 TCP 53`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.2.0/24]}}, {ipBlock: {cidr: 10.0.2.2/32}}]}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a w/a TCP 80
		+ ingress x/a z/a TCP 80`)
}

func TestS12BlocksAreCanonical(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.2.77/24, except: [10.0.2.2/31]}}]}]")).expect(t, `
		+ ingress x/a 10.0.2.4 TCP 80
		- ingress x/a 10.0.2.3 TCP 80
		- ingress x/a 10.0.3.4 TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::ffff:10.0.2.0/120'}}]}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a z/b TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a w/b6 TCP 80`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]")).expect(t, `
		- ingress x/a w/b TCP 80
		+ ingress x/a w/b6 TCP 80`)
}

const stranger = `---
apiVersion: v1
kind: Pod
metadata: {name: %NAME%, namespace: w, labels: {pod: %LABEL%}%META%}
spec: {nodeName: n2, containers: [{name: c, image: i}]%SPEC%}
status: {phase: %PHASE%, podIPs: [{ip: %IP%}]}
`

func TestS13OnlyTheLivingAreSelected(t *testing.T) {
	t.Parallel()
	pod := func(name, label, meta, spec, phase, ip string) string {
		return strings.NewReplacer("%NAME%", name, "%LABEL%", label, "%META%", meta, "%SPEC%", spec, "%PHASE%", phase, "%IP%", ip).Replace(stranger)
	}
	policy := policyYAML("p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: old}}}]}]")
	for phase, sign := range map[string]string{"Running": "+", "Pending": "+", "Unknown": "+", "Succeeded": "-", "Failed": "-"} {
		of(t, policy+pod("old", "old", "", "", phase, "10.0.9.9")).expect(t, sign+" ingress x/a 10.0.9.9 TCP 80")
	}
	// One that is being deleted is there until it has gone; both families count.
	of(t, policy+pod("old", "old", ", deletionTimestamp: '2026-01-01T00:00:00Z'", "", "Running", "10.0.9.9}, {ip: 'fd00::99'")).expect(t, `
		+ ingress x/a 10.0.9.9 TCP 80
		+ ingress x/a fd00::99 TCP 80`)
	// Of two with one address the living one has it.
	of(t, policy+pod("old", "old", "", "", "Succeeded", "10.0.9.9")+pod("new", "new", "", "", "Running", "10.0.9.9")).expect(t, "- ingress x/a 10.0.9.9 TCP 80")
	of(t, policy+pod("old", "old", "", "", "Running", "10.0.9.9")+pod("new", "new", "", "", "Failed", "10.0.9.9")).expect(t, "+ ingress x/a 10.0.9.9 TCP 80")
	of(t, policy+pod("old", "old", ", deletionTimestamp: '2026-01-01T00:00:00Z'", "", "Running", "10.0.9.9")+pod("new", "new", "", "", "Running", "10.0.9.9")).expect(t, "- ingress x/a 10.0.9.9 TCP 80")
}

func TestS14LabelsCountAsTheyAre(t *testing.T) {
	t.Parallel()
	policy := policyYAML("p", "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]")
	w := of(t, policy)
	w.expect(t, "+ ingress x/a w/b TCP 80\n- ingress x/a z/b TCP 80")
	relabelled := strings.NewReplacer("labels: {ns: w}", "labels: {ns: was-w}", "labels: {ns: z}", "labels: {ns: w}").Replace(nine())
	read(t, relabelled+policy).expect(t, "- ingress x/a w/b TCP 80\n+ ingress x/a z/b TCP 80")
	subject := strings.Replace(nine(), "metadata: {name: a, namespace: x, labels: {pod: a}}", "metadata: {name: a, namespace: x, labels: {pod: other}}", 1)
	read(t, subject+policy).expect(t, "+ ingress x/a z/b TCP 80")
}

func TestS15HostNetworkIsTheNode(t *testing.T) {
	t.Parallel()
	host := strings.NewReplacer("%NAME%", "host", "%LABEL%", "b", "%META%", "", "%SPEC%", ", hostNetwork: true", "%PHASE%", "Running", "%IP%", "192.168.0.2").Replace(stranger)
	w := of(t, host+policyYAML("p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]")+
		strings.Replace(policyYAML("q", "podSelector: {}"), "namespace: x", "namespace: w", 1))
	w.expect(t, `
		- ingress x/a 192.168.0.2 TCP 80
		+ ingress w/host x/a TCP 80
		- ingress w/b x/a TCP 80`)
	of(t, host+policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.168.0.0/24}}]}]")).expect(t, "+ ingress x/a 192.168.0.2 TCP 80")
}

func TestS16Ports(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, ingress: [{ports: [{port: 80}, {protocol: UDP}, {protocol: SCTP, port: 100, endPort: 102}]}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a w/b TCP 81
		+ ingress x/a w/b UDP 1
		+ ingress x/a w/b UDP 65535
		- ingress x/a w/b SCTP 99
		+ ingress x/a w/b SCTP 100
		+ ingress x/a w/b SCTP 102
		- ingress x/a w/b SCTP 103`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{ports: [{}]}]")).expect(t, `
		+ ingress x/a w/b TCP 1
		- ingress x/a w/b UDP 1`)
}

// The port "web" is 80 of pods a, 81 of pods b and 82 of pods c.
func TestS17NamedPortsAreOfTheDestination(t *testing.T) {
	t.Parallel()
	sidecar := `---
apiVersion: v1
kind: Pod
metadata: {name: mesh, namespace: x, labels: {pod: mesh}}
spec:
  nodeName: n2
  initContainers:
  - {name: beside, image: i, restartPolicy: Always, ports: [{name: web, containerPort: 15001}]}
  - {name: before, image: i, ports: [{name: web, containerPort: 15002}]}
  containers:
  - {name: one, image: i, ports: [{name: web, containerPort: 8080}]}
  - {name: two, image: i, ports: [{name: web, containerPort: 8081}, {name: web, containerPort: 8082, protocol: UDP}]}
status: {phase: Running, podIPs: [{ip: 10.0.9.9}]}
`
	of(t, sidecar+policyYAML("p", "podSelector: {}, ingress: [{ports: [{port: web}]}], egress: [{ports: [{port: web}]}]")).expect(t, `
		+ ingress x/a w/b TCP 80
		- ingress x/a w/b TCP 81
		- ingress x/b w/b TCP 80
		+ ingress x/b w/b TCP 81
		- ingress x/a w/b UDP 80
		+ egress x/a w/b TCP 81
		- egress x/a w/b TCP 80
		+ egress x/a w/c6 TCP 82
		- egress x/a 192.0.2.1 TCP 80
		+ egress x/a x/mesh TCP 8080
		+ egress x/a x/mesh TCP 8081
		+ egress x/a x/mesh TCP 15001
		- egress x/a x/mesh TCP 15002
		- egress x/a x/mesh UDP 8082`)
	of(t, policyYAML("p", "podSelector: {}, ingress: [{ports: [{port: none}]}]")).expect(t, "- ingress x/a w/b TCP 80")
	of(t, policyYAML("p", "podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.2.0/24}}], ports: [{port: dns, protocol: UDP}]}]")).expect(t, `
		+ egress x/a w/b UDP 53
		- egress x/a 10.0.2.9 UDP 53`)
}

func TestS18SCTPIsolates(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}]}]")).expect(t, `
		+ ingress x/a w/b SCTP 80
		- ingress x/a w/b TCP 80
		- ingress x/a w/b SCTP 81`)
}

func TestS19OnlyRulesWithoutPortsAdmitOtherProtocols(t *testing.T) {
	t.Parallel()
	of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{podSelector: {}}]}, {ports: [{port: 80}]}]")).expect(t, `
		+ ingress x/a x/b ICMP 8/0
		+ ingress x/a x/b GRE
		- ingress x/a w/b ICMP 8/0
		- ingress x/a w/b6 ICMPv6 128/0
		- ingress x/a w/b GRE`)
}

// A question is about the backend: the address of a Service is nobody's, and a block with it allows nothing else.
func TestS20ServicesAreNoPeers(t *testing.T) {
	t.Parallel()
	of(t, `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: w}
spec: {clusterIP: 172.16.0.9, ports: [{port: 80}], selector: {pod: b}}
`+policyYAML("p", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 172.16.0.0/16}}]}]")).expect(t, "- egress x/a w/b TCP 81")
}

const closed = "podSelector: {}, policyTypes: [Ingress, Egress]"

func TestS21TheOwnNodeIsReached(t *testing.T) {
	t.Parallel()
	w := of(t, policyYAML("p", closed)+admin("a", 1, "egress: [{action: Deny, to: [{networks: [192.168.0.0/24]}]}]"))
	w.expect(t, "- ingress x/a 192.168.0.1 TCP 80\n- egress x/a 192.168.0.1 TCP 80")
	w.Node = []netip.Addr{netip.MustParseAddr("192.168.0.1")}
	w.expect(t, "+ ingress x/a 192.168.0.1 TCP 80\n+ egress x/a 192.168.0.1 TCP 80")
}

func TestS22AllAddressesOfTheOwnNodeCount(t *testing.T) {
	t.Parallel()
	w := of(t, policyYAML("p", closed)+`---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
`)
	w.Node = []netip.Addr{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("169.254.20.10")}
	w.expect(t, `
		+ egress x/a 192.168.1.1 TCP 80
		+ egress x/a 169.254.20.10 UDP 53
		- egress x/a 192.168.0.2 TCP 80
		+ egress x/b 192.168.0.2 TCP 80
		- egress x/b 192.168.1.1 TCP 80`)
}

// What goes to the node's DNS counts as going to the backends of the cluster's.
func TestS22TheNodesDNSIsThatOfTheCluster(t *testing.T) {
	t.Parallel()
	dns := `---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: z}
spec: {clusterIP: 172.16.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}, {name: metrics, port: 9153}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: z, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [10.0.3.3]}]
ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353, protocol: TCP}, {name: metrics, port: 9153}]
`
	world := func(rule string) *World {
		w := of(t, dns+policyYAML("p", "podSelector: {}, policyTypes: [Egress], egress: ["+rule+"]"))
		w.Node = []netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd00:20::10")}
		w.Listeners, w.DNS = w.Node, cluster.Name{Namespace: "z", Name: "kube-dns"}
		return w
	}
	world("{to: [{podSelector: {}}]}").expect(t, `
		- egress x/a 169.254.20.10 UDP 53
		- egress x/a 169.254.20.10 TCP 53
		- egress x/a fd00:20::10 UDP 53
		+ egress x/a 169.254.20.10 TCP 9253
		+ ingress x/a 169.254.20.10 UDP 53`)
	for _, rule := range []string{
		"{to: [{namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: c}}}], ports: [{port: 5353, protocol: UDP}]}",
		"{to: [{ipBlock: {cidr: 10.0.3.3/32}}], ports: [{protocol: UDP}]}",
	} {
		world(rule).expect(t, `
		+ egress x/a 169.254.20.10 UDP 53
		+ egress x/a fd00:20::10 UDP 53
		- egress x/a 169.254.20.10 TCP 53`)
	}
	world("{to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{port: 53, protocol: UDP}]}").expect(t, "+ egress x/a 169.254.20.10 UDP 53\n- egress x/a fd00:20::10 UDP 53")
	world("{to: [{podSelector: {}, namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 53, protocol: UDP}]}").expect(t, "- egress x/a 169.254.20.10 UDP 53")
	world("{to: [{podSelector: {}, namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 9153}]}").expect(t, "- egress x/a 169.254.20.10 TCP 53")
	world("{to: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: z}}}]}").expect(t, "- egress x/a 169.254.20.10 UDP 53")
}

// Clients outside whose address a node has replaced by its own are asked about as they are: a question names the client.
func TestS23ClientsBehindTheNodeAreThemselves(t *testing.T) {
	t.Parallel()
	w := of(t, policyYAML("p", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]"))
	w.Node = []netip.Addr{netip.MustParseAddr("192.168.0.1")}
	w.expect(t, "+ ingress x/a 203.0.113.1 TCP 80\n- ingress x/a 198.51.100.1 TCP 80")
}

func TestS24ThePodReachesItself(t *testing.T) {
	t.Parallel()
	w := of(t, policyYAML("p", closed))
	w.expect(t, `
		+ egress x/a x/a TCP 80
		+ ingress x/a x/a6 TCP 80
		- egress x/a x/b TCP 80`)
	w.Local = map[netip.Addr]cluster.Name{netip.MustParseAddr("10.0.1.77"): {Namespace: "x", Name: "a"}}
	w.expect(t, "+ egress x/a 10.0.1.77 TCP 80")
}

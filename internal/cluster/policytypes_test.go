package cluster

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// readObject reads an object as the API gives it, and as manifests do.
func readObject[T any](t *testing.T, text string) *T {
	t.Helper()
	var u unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	fromAPI, fromFile := new(T), new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, fromAPI); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	object, err := json.Marshal(u.Object)
	if err == nil {
		err = json.Unmarshal(object, fromFile)
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if a, b := asJSON(t, fromAPI), asJSON(t, fromFile); a != b {
		t.Errorf("the API's object and the manifest's differ:\n%s\n%s", a, b)
	}
	return fromAPI
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// expectFault looks for the field, the value and the fix in an error, each of which a row has, or for none.
func expectFault(t *testing.T, text string, err error, want ...string) {
	t.Helper()
	switch {
	case len(want) == 0 && err != nil:
		t.Errorf("%s: %v", text, err)
	case len(want) > 0 && err == nil:
		t.Errorf("%s: nothing is wrong, want %q", text, want)
	case err != nil:
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", text, err, part)
			}
		}
	}
}

const subjectAll = "tier: Admin, priority: 5, subject: {namespaces: {}}"

func TestClusterNetworkPolicyFrom(t *testing.T) {
	t.Parallel()
	pods := "[{namespaces: {}}]"
	for spec, want := range map[string][]string{
		subjectAll: nil,
		"tier: Baseline, priority: 1000, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}":                                    nil,
		subjectAll + ", ingress: [{action: Pass, from: [{}]}]":                                                                                            nil, // a peer of later versions
		subjectAll + ", egress: [{action: Accept, to: [{domainNames: ['*.Example.com.', a-b.c_d.io]}]}]":                                                  nil,
		subjectAll + ", egress: [{action: Deny, to: [{networks: [10.0.0.0/8, 'fd00::/8']}, {nodes: {}}], protocols: [{tcp: {}}, {udp: {}}, {sctp: {}}]}]": nil,
		"tier: Other, priority: 5, subject: {namespaces: {}}":                                                                                             {"spec.tier", `"Other"`, "Admin or Baseline"},
		"tier: Admin, priority: 1001, subject: {namespaces: {}}":                                                                                          {"spec.priority", "1001", "0 to 1000"},
		"tier: Admin, priority: 5, subject: {}":                                                                                                           {"spec.subject", "exactly one"},
		"tier: Admin, priority: 5, subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}":                                             {"spec.subject", "exactly one"},
		"tier: Admin, priority: 5, subject: {namespaces: {matchExpressions: [{key: a, operator: Near}]}}":                                                 {"spec.subject.namespaces", "Near"},
		subjectAll + ", ingress: [{action: Allow, from: " + pods + "}]":                                                                                   {"spec.ingress[0].action", `"Allow"`, "Accept, Deny or Pass"},
		subjectAll + ", ingress: [{action: Deny, from: []}]":                                                                                              {"spec.ingress[0].from", "0 peers", "1 to 25"},
		subjectAll + ", ingress: [{action: Deny, to: " + pods + "}]":                                                                                      {"spec.ingress[0].to", "write from"},
		subjectAll + ", ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]":                                                                      {"spec.ingress[0].from[0]", "egress only", "namespaces or pods"},
		subjectAll + ", egress: [{action: Deny, to: [{namespaces: {}, nodes: {}}]}]":                                                                      {"spec.egress[0].to[0]", "2 fields", "of its own"},
		subjectAll + ", egress: [{action: Deny, to: [{networks: [10.0.0.1]}]}]":                                                                           {"spec.egress[0].to[0].networks[0]", `"10.0.0.1"`, "like 10.0.0.0/8"},
		subjectAll + ", egress: [{action: Deny, to: [{networks: []}]}]":                                                                                   {"spec.egress[0].to[0].networks", "0 items"},
		subjectAll + ", egress: [{action: Deny, to: [{domainNames: [example.com]}]}]":                                                                     {"spec.egress[0].to[0].domainNames", "Deny", "Accept only"},
		subjectAll + ", egress: [{action: Accept, to: [{domainNames: ['a.*.com']}]}]":                                                                     {"domainNames[0]", `"a.*.com"`, "*.example.com"},
		subjectAll + ", egress: [{action: Accept, to: [{domainNames: [com]}]}]":                                                                           {"domainNames[0]", `"com"`},
		subjectAll + ", egress: [{action: Accept, to: [{nodes: {}}], protocols: [{destinationNamedPort: web}]}]":                                          {"protocols[0].destinationNamedPort", `"web"`, "write the number"},
		subjectAll + ", ingress: [{action: Accept, from: " + pods + ", protocols: [{}]}]":                                                                 {"protocols[0]", "exactly one"},
		subjectAll + ", ingress: [{action: Accept, from: " + pods + ", protocols: [{tcp: {destinationPort: {number: 70000}}}]}]":                          {"tcp.destinationPort.number", "70000", "1 to 65535"},
		subjectAll + ", ingress: [{action: Accept, from: " + pods + ", protocols: [{udp: {destinationPort: {range: {start: 9, end: 9}}}}]}]":              {"udp.destinationPort.range", "9 to 9", "below"},
		subjectAll + ", ingress: [{action: Accept, from: " + pods + ", protocols: [{udp: {destinationPort: {}}}]}]":                                       {"udp.destinationPort", "number and range"},
		subjectAll + ", ingress: [" + strings.Repeat("{action: Deny, from: "+pods+"},", 26) + "]":                                                         {"spec.ingress", "26 rules", "at most 25"},
	} {
		policy, err := clusterNetworkPolicyFrom(readObject[clusterNetworkPolicy](t, "metadata: {name: p}\nspec: {"+spec+"}"))
		expectFault(t, spec, err, want...)
		if err == nil && (policy == nil || policy.Refused != "") {
			t.Errorf("%s gives %+v", spec, policy)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "convert ClusterNetworkPolicy p: ") {
			t.Errorf("%s: %v does not name the object", spec, err)
		}
	}
}

// What cannot be understood of an object of which nothing better is known closes, by the API's rule.
func TestClusterNetworkPolicyCloses(t *testing.T) {
	t.Parallel()
	policy, err := clusterNetworkPolicyFrom(readObject[clusterNetworkPolicy](t, "metadata: {name: p}\nspec: {"+subjectAll+`, egress: [
		{action: Accept, to: [{networks: [here]}]}, {action: Accept, to: [{networks: ["::ffff:10.1.2.3/104"]}]}, {action: Pass, to: [{networks: [there]}]}]}`))
	if err == nil || policy == nil || policy.Refused == "" {
		t.Fatalf("%+v, %v", policy, err)
	}
	want := []ClusterPolicyRule{
		{Action: ClusterAccept, To: []ClusterPolicyPeer{{Networks: []string{"10.0.0.0/8"}}}},
		{Action: ClusterDeny, To: []ClusterPolicyPeer{{}}},
	}
	if diff := cmp.Diff(want, policy.Spec.Egress); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if policy, err := clusterNetworkPolicyFrom(readObject[clusterNetworkPolicy](t, "metadata: {name: p}\nspec: {tier: Admin, priority: -1, subject: {namespaces: {}}}")); policy != nil || err == nil {
		t.Errorf("of whom and when is not known, and it gives %+v, %v", policy, err)
	}
}

func TestCalicoPolicyFrom(t *testing.T) {
	t.Parallel()
	rule := func(text string) string { return "selector: all(), ingress: [{action: Allow, " + text + "}]" }
	egress := func(text string) string { return "selector: all(), egress: [{action: Allow, " + text + "}]" }
	for spec, want := range map[string][]string{
		"": nil,
		"order: 10, selector: 'a == \"x\" && !has(b)', performanceHints: [AssumeNeededOnEveryNode]":                                                                                                           nil,
		rule("protocol: tcp, destination: {ports: [80, '1000:2000', web], selector: all()}, source: {nets: [10.0.0.0/8, 10.1.2.3], notNets: ['fd00::/8'], notSelector: has(a), namespaceSelector: global()}"): nil,
		rule("protocol: 132, destination: {notPorts: [80]}, ipVersion: 4, metadata: {annotations: {a: b}}"):                                                                                                   nil,
		rule("protocol: ICMP, icmp: {type: 8, code: 0}, notICMP: {type: 3}, notProtocol: 6"):                                                                                                                  nil,
		rule("destination: {ports: [web]}"):                                nil,
		rule("source: {serviceAccounts: {names: [robot]}}"):                nil,
		"doNotTrack: true, applyOnForward: true":                           {"spec.doNotTrack", "true", "remove"},
		"preDNAT: true, applyOnForward: true":                              {"spec.preDNAT", "true", "remove"},
		"applyOnForward: true":                                             {"spec.applyOnForward", "true", "remove the field"},
		"selector: a = b":                                                  {"spec.selector", `"a = b"`, "=="},
		"selector: global()":                                               {"spec.selector", "global()", "namespaceSelector of rules"},
		"types: [Both]":                                                    {"spec.types", `"Both"`, "Ingress or Egress"},
		"serviceAccountSelector: has(a)":                                   {"spec.serviceAccountSelector", "has(a)", "labels of pods"},
		"selector: has(pcsa.a)":                                            {"spec.selector", "pcsa.a", "serviceAccounts.names"},
		"selector: has(pcns.a)":                                            {"spec.selector", "pcns.a", "namespaceSelector"},
		"namespaceSelector: has(a)":                                        {"spec.namespaceSelector", "has(a)", "GlobalNetworkPolicy only"},
		"ingress: [{action: Reject}]":                                      {"spec.ingress[0].action", `"Reject"`, "Allow, Deny, Pass or Log"},
		rule("http: {methods: [GET]}"):                                     {"spec.ingress[0].http", "GET", "match ports"},
		rule("source: {services: {name: web}}"):                            {"spec.ingress[0].source.services", "web", "select the pods"},
		egress("destination: {domains: [example.com]}"):                    {"spec.egress[0].destination.domains", "example.com", "ClusterNetworkPolicy"},
		egress("destination: {serviceAccounts: {selector: has(a)}}"):       {"spec.egress[0].destination.serviceAccounts.selector", "has(a)", "names"},
		rule("protocol: TCP, source: {ports: [80]}"):                       {"spec.ingress[0].source", "80", "destination"},
		rule("destination: {nets: [10.0.0.0/8]}"):                          {"spec.ingress[0].destination", "10.0.0.0/8", "by labels"},
		egress("source: {notNets: [10.0.0.0/8]}"):                          {"spec.egress[0].source", "10.0.0.0/8", "by labels"},
		rule("source: {nets: [here]}"):                                     {"spec.ingress[0].source.nets[0]", `"here"`, "like 10.0.0.0/8"},
		rule("source: {notSelector: a}"):                                   {"spec.ingress[0].source.notSelector", `"a"`, "operator"},
		rule("source: {selector: global()}"):                               {"spec.ingress[0].source.selector", "global()"},
		rule("source: {namespaceSelector: 'global() || has(a)'}"):          {"spec.ingress[0].source.namespaceSelector", "global() || has(a)", "beside"},
		rule("ipVersion: 5"):                                               {"spec.ingress[0].ipVersion", "5", "4 or 6"},
		rule("protocol: IGMP"):                                             {"spec.ingress[0]", `"IGMP"`, "1 to 255"},
		rule("protocol: 256"):                                              {"spec.ingress[0]", `"256"`, "1 to 255"},
		rule("protocol: TCP, destination: {ports: ['9:8']}"):               {"spec.ingress[0]", `"9:8"`, "1000:2000"},
		rule("destination: {ports: [80]}"):                                 {"spec.ingress[0].destination", "80", "TCP, UDP or SCTP"},
		rule("protocol: ICMP, destination: {ports: [80]}"):                 {"spec.ingress[0].destination", "80", "protocol 1 has none"},
		rule("protocol: TCP, destination: {notPorts: [web]}"):              {"spec.ingress[0].destination.notPorts", `"web"`, "number"},
		rule("protocol: TCP, destination: {ports: [web], notPorts: [80]}"): {"spec.ingress[0].destination.notPorts", `"web"`, "number"},
		rule("protocol: TCP, icmp: {type: 8}"):                             {"spec.ingress[0].icmp", "ICMP or ICMPv6"},
		rule("notICMP: {type: 8}"):                                         {"spec.ingress[0].notICMP", "ICMP or ICMPv6"},
		rule("protocol: ICMP, icmp: {code: 1}"):                            {"spec.ingress[0].icmp.code", "1", "type"},
		rule("protocol: ICMP, icmp: {type: 256}"):                          {"spec.ingress[0].icmp.type", "256", "0 to 255"},
		rule("source: {color: red}"):                                       {"spec.ingress[0]", `"color"`, "network-policy.md"},
	} {
		policy, err := calicoPolicyFrom(readObject[calicoPolicy](t, "metadata: {name: p, namespace: shop}\nspec: {"+spec+"}"))
		expectFault(t, spec, err, want...)
		switch {
		case err == nil && (policy == nil || policy.Refused != ""):
			t.Errorf("%s gives %+v", spec, policy)
		case err != nil && !strings.HasPrefix(err.Error(), "convert NetworkPolicy (crd.projectcalico.org) shop/p: "):
			t.Errorf("%s: %v does not name the object", spec, err)
		case strings.Contains(spec, "action: Allow") && err != nil:
			// It can be read whom the policy selects, so it isolates them.
			if policy == nil || policy.Refused == "" || len(policy.Spec.Ingress)+len(policy.Spec.Egress) > 0 || len(policy.Spec.Types) != 1 {
				t.Errorf("%s gives %+v", spec, policy)
			}
		}
	}
}

func TestCalicoPolicyCompletes(t *testing.T) {
	t.Parallel()
	const rules = "[{action: Allow}]"
	for spec, want := range map[string][]string{
		"selector: all()":                          {CalicoIngress},
		"ingress: " + rules:                        {CalicoIngress},
		"egress: " + rules:                         {CalicoEgress},
		"types: [Egress]":                          {CalicoEgress},
		"ingress: " + rules + ", egress: " + rules: {CalicoIngress, CalicoEgress},
		"types: [Ingress], ingress: " + rules + ", egress: " + rules: {CalicoIngress},
	} {
		policy, err := calicoPolicyFrom(readObject[calicoPolicy](t, "metadata: {name: default.p}\nspec: {"+spec+"}"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(policy.Spec.Types, want) || policy.Spec.Tier != CalicoDefaultTier || policy.SortName != "p" || !policy.Global() {
			t.Errorf("%s gives %+v", spec, policy)
		}
	}
	stored := `metadata: {name: default.p, annotations: {projectcalico.org/metadata: '{"name":"default.p","labels":{"a":"b"}}'}}`
	if policy, err := calicoPolicyFrom(readObject[calicoPolicy](t, stored+"\nspec: {tier: early}")); err != nil || policy.SortName != "default.p" || policy.Spec.Tier != "early" {
		t.Errorf("%+v, %v", policy, err)
	}
	set, err := calicoNetworkSetFrom(readObject[calicoNetworkSet](t, stored+"\nspec: {nets: [10.1.2.3/8, 'fd00::1', '::ffff:192.0.2.0/120']}"))
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::1/128"), netip.MustParsePrefix("192.0.2.0/24")}
	if err != nil || !slices.Equal(set.Nets, want) || set.Labels["a"] != "b" {
		t.Errorf("%+v, %v", set, err)
	}
	_, err = calicoNetworkSetFrom(readObject[calicoNetworkSet](t, "metadata: {name: s}\nspec: {nets: [x]}"))
	expectFault(t, "a set", err, "NetworkSet s", "spec.nets[0]", `"x"`)
	_, err = calicoTierFrom(readObject[calicoTier](t, "metadata: {name: t}\nspec: {defaultAction: Allow}"))
	expectFault(t, "a tier", err, "Tier t", "spec.defaultAction", `"Allow"`, "Deny or Pass")
}

package cluster

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var everyKind = []Kind{Services, Namespaces, Pods, Nodes, Ingresses, HTTPRoutes, Gateways, DNSEndpoints}

// What is published for a shop: one object of each kind.
const publishManifests = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {zone: h}, annotations: {external-dns.kubernetes.io/ttl: "60", other.io/x: v}}
spec: {unschedulable: true}
status:
  addresses:
  - {type: InternalIP, address: 192.168.0.1}
  - {type: InternalIP, address: "fd00::1"}
  - {type: ExternalIP, address: 47.0.0.1}
  - {type: Hostname, address: node-a}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {external-dns.alpha.kubernetes.io/hostname: web.corp}}
spec: {type: LoadBalancer, clusterIP: 10.96.0.7, externalIPs: [1.2.3.4], ports: [{port: 80, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 10.1.1.1}, {hostname: lb.example.com}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.1], zone: h, nodeName: node-a, hostname: web-0, hints: {forZones: [{name: h}]}}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}, annotations: {external-dns.kubernetes.io/hostname: web-0.corp, k8s.aliyun.com/x: v}}
spec: {nodeName: node-a, containers: [{name: c, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop, annotations: {kubernetes.io/ingress.class: alb}}
spec: {rules: [{host: a.corp}, {}], tls: [{hosts: [b.corp, ""]}]}
status: {loadBalancer: {ingress: [{ip: 10.1.1.2, hostname: alb.example.com}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra}
spec:
  gatewayClassName: c
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: "*.corp", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}
  - {name: https, port: 443, protocol: HTTPS}
  - {name: tcp, port: 1, protocol: TCP}
  - {name: grpc, port: 2, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}
status: {addresses: [{type: IPAddress, value: 10.1.1.3}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  hostnames: [c.corp]
  parentRefs: [{name: gw, namespace: infra, sectionName: http}, {name: mesh, kind: Service, group: ""}, {name: late}]
status:
  parents:
  - {parentRef: {name: gw, namespace: infra, sectionName: http, port: 80}, controllerName: x/y, conditions: [{type: Accepted, status: "True"}]}
  - {parentRef: {name: mesh, kind: Service, group: ""}, conditions: [{type: Accepted, status: "True"}]}
  - {parentRef: {name: late}, conditions: [{type: Accepted, status: "False"}]}
  - {parentRef: {name: former}, conditions: [{type: Accepted, status: "True"}]}
---
apiVersion: externaldns.k8s.io/v1alpha1
kind: DNSEndpoint
metadata: {name: extra, namespace: shop}
spec: {endpoints: [{dnsName: d.corp, recordType: TXT, recordTTL: 300, targets: ["a b"], labels: {x: v}}, null]}
`

// checkPublished looks at every kind of publishManifests.
func checkPublished(t *testing.T, s *Snapshot) {
	t.Helper()
	ip := netip.MustParseAddr
	want := dump{
		Nodes: map[Name]*Node{{"", "node-a"}: {
			Meta:        Meta{Name: Name{"", "node-a"}, Labels: map[string]string{"zone": "h"}, Annotations: map[string]string{"external-dns.kubernetes.io/ttl": "60"}},
			InternalIPs: []netip.Addr{ip("192.168.0.1"), ip("fd00::1")}, ExternalIPs: []netip.Addr{ip("47.0.0.1")}, Unschedulable: true,
		}},
		Services: map[Name]*Service{{"shop", "web"}: {
			Name: Name{"shop", "web"}, ClusterIPs: []netip.Addr{ip("10.96.0.7")}, Ports: []ServicePort{{Protocol: TCP, Port: 80, NodePort: 30080}},
			Exposure: &Exposure{
				Type: corev1.ServiceTypeLoadBalancer, Labels: map[string]string{"app": "web"},
				Annotations:  map[string]string{"external-dns.alpha.kubernetes.io/hostname": "web.corp"},
				ExternalIPs:  []netip.Addr{ip("1.2.3.4")},
				LoadBalancer: LoadBalancer{[]netip.Addr{ip("10.1.1.1")}, []string{"lb.example.com"}},
			},
		}},
		ServiceSlices: map[Name][]*EndpointSlice{{"shop", "web"}: {{
			Name: Name{"shop", "web-1"}, Service: Name{"shop", "web"},
			Endpoints: []Endpoint{{Addr: ip("10.0.0.1"), Hostname: "web-0", NodeName: "node-a", Ready: true, Serving: true}},
		}}},
		Pods: map[Name]*Pod{{"shop", "web-0"}: {
			Name: Name{"shop", "web-0"}, Node: "node-a", Addrs: []netip.Addr{ip("10.0.0.1")}, Phase: PodRunning, Ready: true,
			Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"external-dns.kubernetes.io/hostname": "web-0.corp"},
		}},
		ServiceCIDRs: map[Name]*ServiceCIDR{},
		Ingresses: map[Name]*Ingress{{"shop", "web"}: {
			Meta: Meta{Name: Name{"shop", "web"}}, Class: "alb", Hosts: []string{"a.corp", "b.corp"},
			LoadBalancer: LoadBalancer{[]netip.Addr{ip("10.1.1.2")}, []string{"alb.example.com"}},
		}},
		Gateways: map[Name]*Gateway{{"infra", "gw"}: {
			Meta: Meta{Name: Name{"infra", "gw"}}, Addresses: []string{"10.1.1.3"},
			Listeners: []Listener{
				{Name: "http", Hostname: "*.corp", Port: 80, From: "Selector", Selector: s.Gateway(Name{"infra", "gw"}).Listeners[0].Selector},
				{Name: "https", Port: 443, From: "Same"},
			},
		}},
		Routes: map[Name]*HTTPRoute{{"shop", "web"}: {
			Meta: Meta{Name: Name{"shop", "web"}}, Hostnames: []string{"c.corp"}, Parents: []ParentRef{{Name{"infra", "gw"}, "http", 80}},
		}},
		Endpoints: map[Name]*DNSEndpoint{{"shop", "extra"}: {
			Meta: Meta{Name: Name{"shop", "extra"}}, Records: []RecordSet{{"d.corp", "TXT", 300, []string{"a b"}}},
		}},
		NamespaceLabels: map[string]map[string]string{"shop": {"team": "a"}},
	}
	got := dumpOf(s)
	got.Synced, got.Sizes, got.Namespaces, got.ByClusterIP, got.ByEndpointIP, got.ByPodIP = false, nil, nil, nil, nil, nil
	noSelector := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Selector" }, cmp.Ignore())
	noPorts := cmp.FilterPath(func(p cmp.Path) bool {
		return strings.Contains(p.String(), "ServiceSlices") && p.Last().String() == ".Ports"
	}, cmp.Ignore())
	if diff := cmp.Diff(want, got, compareAddrs, noSelector, noPorts); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	if text := selectorText(got.Gateways[Name{"infra", "gw"}].Listeners[0].Selector); text != "team=a" {
		t.Errorf("selector %q", text)
	}
	if s.PodByIP(ip("10.0.0.1")) != nil || s.podIPs.len()+s.clusterIPs.len()+s.endpointIPs.len() != 0 {
		t.Error("a Store of names has an index by address")
	}
}

func TestFileSourcePublishes(t *testing.T) {
	t.Parallel()
	set := newManifestSet("", everyKind)
	if err := set.addFile("all.yaml", []byte(publishManifests)); err != nil {
		t.Fatal(err)
	}
	store := NewNameStore()
	store.Replace(set.result())
	checkPublished(t, store.Snapshot())

	set = newManifestSet("", []Kind{Nodes})
	if err := set.addFile("all.yaml", []byte(publishManifests)); err != nil {
		t.Fatal(err)
	}
	if all := set.result(); len(all.Nodes) != 1 || len(all.Services)+len(all.Slices)+len(all.Pods)+len(all.Ingresses)+len(all.HTTPRoutes)+len(all.Gateways)+len(all.DNSEndpoints) != 0 {
		t.Errorf("asked for nodes, got %+v", all)
	}
}

func TestPublishedManifestErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ in, want string }{
		"node address":     {"apiVersion: v1\nkind: Node\nmetadata: {name: node}\nstatus: {addresses: [{type: InternalIP, address: x}]}\n", `document 1: Node node: status.addresses[0].address: "x"`},
		"load balancer":    {"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nstatus: {loadBalancer: {ingress: [{ip: x}]}}\n", `Service a: status.loadBalancer.ingress[0].ip: "x"`},
		"external address": {"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {externalIPs: [x]}\n", `spec.externalIPs[0]: "x"`},
		"ingress":          {"apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nspec: {rule: []}\n", `unknown field "spec.rule"`},
		"ingress address":  {"apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nstatus: {loadBalancer: {ingress: [{ip: x}]}}\n", `Ingress a: status.loadBalancer.ingress[0].ip: "x"`},
		"listener port":    {"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {listeners: [{protocol: HTTP, port: 70000}]}\n", "spec.listeners[0].port: 70000"},
		"selector":         {"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {listeners: [{protocol: HTTP, port: 1, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: X}]}}}}]}\n", "spec.listeners[0].allowedRoutes.namespaces.selector"},
		"parent port":      {"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{name: g}]}\nstatus: {parents: [{parentRef: {name: g, port: -1}, conditions: [{type: Accepted, status: 'True'}]}]}\n", "status.parents[0].parentRef.port: -1"},
		"type of a field":  {"apiVersion: externaldns.k8s.io/v1alpha1\nkind: DNSEndpoint\nmetadata: {name: a}\nspec: {endpoints: [{targets: x}]}\n", "targets"},
		"duplicate":        {strings.Repeat("---\napiVersion: externaldns.k8s.io/v1alpha1\nkind: DNSEndpoint\nmetadata: {name: a}\n", 2), "defined already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := newManifestSet("", everyKind).addFile("f.yaml", []byte(tt.in)); !errorHas(err, tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPublishingExcludesANode(t *testing.T) {
	t.Parallel()
	if _, err := newAPISource(nil, nil, APIConfig{Publish: everyKind, NodeName: testNode}); err == nil {
		t.Error("API source: no error")
	}
	if _, err := NewFileSource(FileConfig{Publish: everyKind, NodeName: testNode}); err == nil {
		t.Error("file source: no error")
	}
}

func TestLabelSetsAreShared(t *testing.T) {
	t.Parallel()
	var sets labelSets
	a := sets.shared(map[string]string{"a": "b", "c": "d"})
	b := sets.shared(map[string]string{"c": "d", "a": "b"})
	a["x"] = "y"
	if b["x"] != "y" {
		t.Error("equal labels do not share a map")
	}
	if c := sets.shared(map[string]string{"a": "bc", "": "d"}); len(c) != 2 || c["a"] != "bc" {
		t.Errorf("other labels became %v", c)
	}
	for i := range 10 * youngSets {
		sets.shared(map[string]string{"n": time.Duration(i).String()})
	}
	if n := len(sets.young) + len(sets.old); n > 2*youngSets {
		t.Errorf("%d sets are remembered", n)
	}
}

func FuzzCustomResources(f *testing.F) {
	for doc := range documents([]byte(publishManifests)) {
		if object, err := yaml.YAMLToJSON(doc); err == nil {
			f.Add(object)
		}
	}
	f.Add([]byte(`{"kind":"Gateway","metadata":{"name":1},"spec":{"listeners":[{"port":1e99}]}}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		in := &unstructured.Unstructured{}
		if in.UnmarshalJSON(object) != nil {
			return
		}
		source, err := newAPISource(nil, nil, APIConfig{Publish: everyKind})
		if err != nil {
			t.Fatal(err)
		}
		out, err := source.strip(in)
		if err != nil {
			t.Fatalf("strip failed: %v", err)
		}
		o, ok := out.(*stripped)
		if !ok || o.err != nil {
			return
		}
		store := NewNameStore()
		store.Update(o.put)
		store.Update(o.delete)
		if s := store.Snapshot(); s.routes.len()+s.gateways.len()+s.endpoints.len() != 0 {
			t.Errorf("%s %s/%s stays after its deletion", o.kind, o.Namespace, o.Name)
		}
	})
}

package cluster

import (
	"iter"
	"maps"
	"slices"
	"testing"
)

const testNode = "node-a"

func (k objectKeys) namespaces() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range k[kindNamespace] {
			if !yield(name.Name) {
				return
			}
		}
	}
}

const goodManifests = `# an application
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
--- # its service
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  ports: [{name: http, port: 80, targetPort: web, appProtocol: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: elsewhere}
spec: {whatever: true}
...
---
apiVersion: v1
kind: List
items:
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata:
    name: cart-1
    namespace: shop
    labels: {kubernetes.io/service-name: cart}
  addressType: IPv4
  ports: [{port: 8080}]
  endpoints: [{addresses: [10.0.0.1]}]
- apiVersion: v1
  kind: ServiceList
  items:
  - metadata: {name: 4you}
    spec: {clusterIP: None}
- {apiVersion: v1, kind: Pod, metadata: {name: anywhere}}
---
apiVersion: v1
kind: Pod
metadata: {name: here.1, namespace: pods, annotations: {nearpath.io/x: v}}
spec: {nodeName: node-a, containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: there, namespace: other-pods}
spec: {nodeName: node-b}
`

func TestManifests(t *testing.T) {
	t.Parallel()
	set := newManifestSet(testNode, nil)
	if err := set.addFile("good.yaml", []byte(goodManifests)); err != nil {
		t.Fatal(err)
	}
	if err := set.addFile("one.json", []byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"j","namespace":"json"},"spec":{}}`)); err != nil {
		t.Fatal(err)
	}
	all := set.result()
	keys := all.keys()
	if got, want := slices.SortedFunc(maps.Keys(keys[kindService]), compareNames), []Name{{"default", "4you"}, {"json", "j"}, {"shop", "cart"}}; !slices.Equal(got, want) {
		t.Errorf("services %v, want %v", got, want)
	}
	if _, ok := keys[kindSlice][Name{"shop", "cart-1"}]; !ok || len(keys[kindSlice]) != 1 {
		t.Errorf("slices %v", keys[kindSlice])
	}
	if got, want := slices.Sorted(keys.namespaces()), []string{"default", "elsewhere", "json", "other-pods", "pods", "shop"}; !slices.Equal(got, want) {
		t.Errorf("namespaces %v, want %v", got, want)
	}
	if got, want := slices.SortedFunc(maps.Keys(keys[kindPod]), compareNames), []Name{{"default", "anywhere"}, {"pods", "here.1"}}; !slices.Equal(got, want) {
		t.Errorf("pods %v, want those of this node and of none: %v", got, want)
	}
	if ports := all.Slices[0].Ports; len(ports) != 1 || ports[0] != (EndpointPort{"", TCP, 8080}) {
		t.Errorf("ports %v: a port without a name has the empty name, as the API server completes it", ports)
	}
}

func TestManifestPodNetAdmin(t *testing.T) {
	t.Parallel()
	set := newManifestSet("node-a", nil)
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: vpn}\n" +
		"spec: {containers: [{name: c, securityContext: {capabilities: {add: [NET_ADMIN]}}}]}\n"
	if err := set.addFile("pod.yaml", []byte(pod)); err != nil {
		t.Fatal(err)
	}
	if all := set.result(); len(all.Pods) != 1 || !all.Pods[0].NetAdmin {
		t.Errorf("pods are %v, want one with NetAdmin", all.Pods)
	}
}

func TestManifestNodes(t *testing.T) {
	t.Parallel()
	set := newManifestSet("node-a", nil)
	const nodes = "apiVersion: v1\nkind: Node\nmetadata: {name: node-b}\n---\n" +
		"apiVersion: v1\nkind: Node\nmetadata: {name: node-a, labels: {topology.kubernetes.io/zone: z1}}\n"
	if err := set.addFile("nodes.yaml", []byte(nodes)); err != nil {
		t.Fatal(err)
	}
	if all := set.result(); len(all.Nodes) != 1 || all.Nodes[0].Name.Name != "node-a" || all.Nodes[0].Zone() != "z1" {
		t.Errorf("nodes are %v, want this one, in zone z1", all.Nodes)
	}
}

func TestManifestsWithoutANodeHaveNoPods(t *testing.T) {
	t.Parallel()
	set := newManifestSet("", nil)
	if err := set.addFile("pod.yaml", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: A_b, namespace: ns}\n")); err != nil {
		t.Errorf("a pod that nobody reads was refused: %v", err)
	}
	if all := set.result(); len(all.Pods) != 0 || !slices.Equal(all.Namespaces, []string{"ns"}) {
		t.Errorf("pods %v, namespaces %v", all.Pods, all.Namespaces)
	}
}

func TestManifestErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: ns}\n"
	const slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, namespace: ns, labels: {kubernetes.io/service-name: a}}\n"
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: ns}\n"
	for name, tt := range map[string]struct{ in, want string }{
		"not YAML":           {"a: [", "f.yaml: document 1: "},
		"second document":    {service + "--- # next\na: [", "f.yaml: document 2: "},
		"field given twice":  {service + "kind: Service\n", `key "kind" already set`},
		"no kind":            {"a: 1\n", "document 1: apiVersion or kind: missing"},
		"a scalar":           {"hello\n", "document 1: "},
		"unknown field":      {service + "spec: {clusterip: 10.0.0.1}\n", `document 1: Service ns/a: unknown field "spec.clusterip"`},
		"wrong type":         {service + "spec: {ports: [{port: http}]}\n", "spec.ports.port"},
		"bad value":          {service + "spec: {ports: [{port: 0}]}\n", "document 1: Service ns/a: spec.ports[0].port: 0 is not a port"},
		"bad name":           {"apiVersion: v1\nkind: Service\nmetadata: {name: A_b}\n", `metadata.name: "A_b": `},
		"bad namespace":      {"apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: x.y}\n", `metadata.namespace: "x.y": `},
		"namespace unnamed":  {"apiVersion: v1\nkind: Namespace\nmetadata: {}\n", `metadata.name: ""`},
		"duplicate":          {service + "---\n" + service, "document 2: Service ns/a: metadata.name: defined already in f.yaml: document 1"},
		"old API version":    {"apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}\n", "apiVersion: discovery.k8s.io/v1beta1 is not read"},
		"no address type":    {slice, `addressType: "" is not IPv4`},
		"bad address":        {slice + "addressType: IPv4\nendpoints: [{addresses: [fd00::1]}]\n", "endpoints[0].addresses[0]: fd00::1"},
		"unnamed pod":        {"apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n", `metadata.name: ""`},
		"pod address":        {pod + "status: {podIPs: [{ip: 10.0.0.1}, {ip: x}]}\n", `document 1: Pod ns/a: status.podIPs[1]: "x" is not an address`},
		"pod field":          {pod + "spec: {nodename: node-a}\n", `unknown field "spec.nodename"`},
		"duplicate pod":      {pod + "spec: {nodeName: node-b}\n---\n" + pod, "document 2: Pod ns/a: metadata.name: defined already"},
		"item of a list":     {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- {}\n", "document 1: items[1]: apiVersion or kind: missing"},
		"items not a list":   {"apiVersion: v1\nkind: List\nitems: 3\n", "document 1: items: "},
		"two JSON documents": {`{"apiVersion":"v1","kind":"Secret"} {"apiVersion":"v1"}`, "document 2: apiVersion or kind: missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := newManifestSet(testNode, nil).addFile("f.yaml", []byte(tt.in)); !errorHas(err, tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzManifests(f *testing.F) {
	f.Add([]byte(goodManifests))
	f.Add([]byte(publishManifests))
	f.Add([]byte("---\n...\n--- {}\n"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"a"},"spec":{"clusterIPs":["::1"]}}]}`))
	f.Add([]byte("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: {kubernetes.io/service-name: a}}\naddressType: IPv6\nendpoints: [{addresses: ['::1']}]\n"))
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {k8s.aliyun.com/pod-ip-reservation: 'true', x: v}}\n" +
		"spec: {nodeName: node-a, hostNetwork: false, runtimeClassName: r}\n" +
		"status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 'fd00::1'}, {ip: 10.0.0.1}]}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		var joined []byte
		for doc := range documents(content) {
			joined = append(joined, doc...)
		}
		if len(joined) > len(content) {
			t.Fatalf("%d bytes split into %d", len(content), len(joined))
		}
		fuzzPublished(t, content)
		set := newManifestSet(testNode, nil)
		if set.addFile("fuzz.yaml", content) != nil {
			return
		}
		store := NewStore()
		store.Replace(set.result())
		for svc := range store.Snapshot().Services() {
			if svc.Name.Name == "" || !store.Snapshot().HasNamespace(svc.Name.Namespace) {
				t.Errorf("service %q without a name or a namespace", svc.Name)
			}
			for _, addr := range svc.ClusterIPs {
				if !addr.IsValid() || addr.Is4In6() {
					t.Errorf("service %s has address %v", svc.Name, addr)
				}
			}
		}
		for pod := range store.Snapshot().Pods() {
			checkPod(t, store.Snapshot(), pod)
		}
	})
}

// fuzzPublished reads for publishing what is fuzzed: everything then has a name, a namespace that exists, and good addresses.
func fuzzPublished(t *testing.T, content []byte) {
	t.Helper()
	set := newManifestSet("", everyKind)
	if set.addFile("fuzz.yaml", content) != nil {
		return
	}
	store := NewNameStore()
	store.Replace(set.result())
	s := store.Snapshot()
	for kind, names := range map[string]iter.Seq[Name]{
		kindPod: keys(s.pods), kindIngress: keys(s.ingresses), kindHTTPRoute: keys(s.routes), kindGateway: keys(s.gateways), kindDNSEndpoint: keys(s.endpoints),
	} {
		for name := range names {
			if name.Name == "" || !s.HasNamespace(name.Namespace) {
				t.Errorf("%s %q without a name or a namespace", kind, name)
			}
		}
	}
	for node := range s.Nodes() {
		for _, addr := range slices.Concat(node.InternalIPs, node.ExternalIPs) {
			if !addr.IsValid() || addr.Is4In6() {
				t.Errorf("node %s has address %v", node.Name, addr)
			}
		}
	}
	for svc := range s.Services() {
		if svc.Exposure == nil || svc.Exposure.Type == "" {
			t.Errorf("service %s is not exposed", svc.Name)
		}
	}
}

func checkPod(t *testing.T, s *Snapshot, pod *Pod) {
	t.Helper()
	if pod.Name.Name == "" || !s.HasNamespace(pod.Name.Namespace) || pod.Node != "" && pod.Node != testNode {
		t.Errorf("pod %q on node %q without a name or a namespace, or of another node", pod.Name, pod.Node)
	}
	for i, addr := range pod.Addrs {
		if !addr.IsValid() || addr.Is4In6() || i > 0 && addr.Is4() && pod.Addrs[i-1].Is6() {
			t.Errorf("pod %s has addresses %v", pod.Name, pod.Addrs)
		}
		if pod.hasNetwork() && s.PodByIP(addr) == nil {
			t.Errorf("pod %s is not found by %s", pod.Name, addr)
		}
	}
	for key := range pod.Annotations {
		if !isRead(key) {
			t.Errorf("pod %s keeps annotation %q", pod.Name, key)
		}
	}
}

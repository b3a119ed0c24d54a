//go:build node

package policy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/agentlab"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// A place is somebody who asks and is asked: a pod, or a node or another machine, which has no namespace.
type place struct {
	namespace, name string
	node            string
	annotations     map[string]string
	role            string // a label, beside its name
	pod             *agentlab.Pod
	addrs           []netip.Addr // IPv4 first
	prober          *prober
}

func (p *place) String() string {
	if p.namespace == "" {
		return p.name
	}
	return p.namespace + "/" + p.name
}

func (p *place) isPod() bool { return p.namespace != "" }

// labels are the pod's.
func (p *place) labels() string {
	if p.role != "" {
		return fmt.Sprintf("{pod: %s, role: %s}", p.name, p.role)
	}
	return fmt.Sprintf("{pod: %s}", p.name)
}

// web is what the port called web is: another one on each pod but the first of its namespace.
func (p *place) web() uint16 {
	if p.name == "a" {
		return ports[0]
	}
	return ports[1]
}

// thePods are spread over the nodes and the datapaths, some of them with packets translated instead of sockets.
func thePods() []*place {
	packets := map[string]string{"nearpath.io/service-path": "packets"}
	exclusive := map[string]string{"nearpath.io/datapath": "exclusive"}
	third := map[string]string{"nearpath.io/datapath": thirdDatapath}
	return []*place{
		{namespace: "x", name: "a", node: "n1"}, {namespace: "x", name: "b", node: "n1", annotations: third}, {namespace: "x", name: "c", node: "n2", annotations: exclusive},
		{namespace: "v", name: "a", node: "n2", annotations: third}, {namespace: "v", name: "b", node: "n1", annotations: exclusive}, {namespace: "v", name: "c", node: "n2", annotations: packets},
		{namespace: "z", name: "a", node: "n1", annotations: third}, {namespace: "z", name: "b", node: "n2", annotations: third}, {namespace: "z", name: "c", node: "n1", annotations: packets},
	}
}

// A world is the nodes, the pods, and a machine of the VPC that is no node.
type world struct {
	lab      *netlab.Lab
	cloud    *cloudlab.Cloud
	nodes    map[string]*agentlab.Node
	pods     []*place
	hosts    []*place
	outside  *place
	machine  cloudlab.Machine // outside's
	canaries []*place
	rounds   int      // policies that were written
	later    []*place // pods that come and go
	ghosts   string   // pods that nobody is
	// labels are those of namespaces beside their names.
	labels map[string]string
}

const instanceType = "ecs.sim.policy"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{lab: newLab(t), nodes: map[string]*agentlab.Node{}, pods: thePods(), labels: map[string]string{}}
	w.canaries = []*place{{namespace: "canary", name: "n1", node: "n1"}, {namespace: "canary", name: "n2", node: "n2"}}
	config := sim.DualStackConfig()
	config.Logger = slog.New(slog.DiscardHandler)
	kind := config.InstanceTypes[len(config.InstanceTypes)-1]
	kind.ID, kind.ENIs, kind.AddressesPerENI, kind.IPv6PerENI, kind.TotalQueues = instanceType, 6, 10, 10, 0
	config.InstanceTypes = append(config.InstanceTypes, kind)
	var err error
	w.cloud, err = cloudlab.Open(w.lab, cloudlab.Options{Sim: config, InstanceType: instanceType, IPv6: true})
	ok(t, err)
	t.Cleanup(func() { ok(t, w.cloud.Close()) })
	ok(t, os.Mkdir(w.manifests(), 0o755))
	settings := fmt.Sprintf("manifests: %s\npool: {stack: dual, cooldown: 1ms}\nservices: {cidrs: [10.96.0.0/16, \"fd00:96::/112\"], takeOver: false}\ndns: {upstreams: [192.0.2.53]}\nlogLevel: debug\n",
		w.manifests())
	for _, name := range []string{"n1", "n2"} {
		n, err := agentlab.Start(t.Context(), w.lab, w.cloud, name, os.Getenv(binEnv), settings)
		ok(t, err)
		w.nodes[name] = n
		t.Cleanup(func() {
			if t.Failed() {
				text := n.Log()
				t.Logf("the log of the agent of %s ends:\n%s", name, text[max(0, len(text)-6000):])
			}
		})
		w.hosts = append(w.hosts, &place{name: name, node: name, addrs: n.Machine.Addrs()})
	}
	w.writeObjects(t)
	w.writePolicies(t, "")
	for _, n := range w.nodes {
		ok(t, n.StartAgent(t.Context()))
	}
	w.startPlaces(t)
	return w
}

func (w *world) manifests() string { return filepath.Join(w.lab.Dir(), "manifests") }

// startPlaces runs everybody.
func (w *world) startPlaces(t *testing.T) {
	t.Helper()
	for _, p := range slices.Concat(w.pods, w.canaries) {
		pod, err := w.nodes[p.node].NewPod(t.Context(), agentlab.PodSpec{Namespace: p.namespace, Name: p.name, Annotations: p.annotations})
		ok(t, err)
		ok(t, pod.Add(t.Context()))
		p.pod, p.addrs = pod, pod.Addrs
		p.prober = startProber(t, w.lab, selfIn(t, pod.Command), roleServer)
	}
	for _, h := range w.hosts {
		h.prober = startProber(t, w.lab, selfIn(t, w.nodes[h.node].Command), roleServer)
	}
	var err error
	w.machine, err = w.cloud.Machine(t.Context(), "outside")
	ok(t, err)
	w.outside = &place{name: "outside", addrs: w.machine.Addrs()}
	w.outside.prober = startProber(t, w.lab, selfIn(t, w.machine.NetNS.Command), roleServer)
	w.writeObjects(t)
}

// places are all who ask and are asked by rule.
func (w *world) places() []*place { return slices.Concat(w.pods, w.hosts) }

// find is the place of that name, "namespace/name" of a pod.
func (w *world) find(name string) *place {
	for _, p := range append(w.places(), w.outside) {
		if p.String() == name {
			return p
		}
	}
	panic("no place is called " + name)
}

// writeObjects writes all objects but policies.
func (w *world) writeObjects(t *testing.T) {
	t.Helper()
	var b strings.Builder
	for _, h := range w.hosts {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Node\nmetadata: {name: %[1]s, labels: {kubernetes.io/hostname: %[1]s}}\nstatus: {addresses: [{type: InternalIP, address: %s}, {type: InternalIP, address: \"%s\"}]}\n",
			h.name, h.addrs[0], h.addrs[1])
	}
	for _, namespace := range []string{"x", "v", "z", "canary", "crowd", "kube-system"} {
		labels := w.labels[namespace]
		if labels != "" {
			labels = ", " + labels
		}
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %[1]s, labels: {kubernetes.io/metadata.name: %[1]s%[2]s}}\n", namespace, labels)
	}
	for _, p := range slices.Concat(w.pods, w.canaries, w.later) {
		annotations, err := json.Marshal(p.annotations)
		ok(t, err)
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: %s, annotations: %s}\nspec: {nodeName: %s, containers: [{name: c, image: c, ports: [{name: web, containerPort: %d}]}]}\n",
			p.name, p.namespace, p.labels(), annotations, p.node, p.web())
		if len(p.addrs) == 2 {
			fmt.Fprintf(&b, "status: {phase: Running, podIP: %s, podIPs: [{ip: %s}, {ip: \"%s\"}]}\n", p.addrs[0], p.addrs[0], p.addrs[1])
		}
	}
	w.writeServices(&b)
	b.WriteString(w.ghosts)
	w.write(t, "objects.yaml", b.String())
}

// vips are the addresses of a Service of port 80 that leads to port 81 of x/a; nodePort leads there, too.
var vips = []netip.Addr{netip.MustParseAddr("10.96.0.80"), netip.MustParseAddr("fd00:96::80")}

const nodePort = 30080

func (w *world) writeServices(b *strings.Builder) {
	backend := w.pods[0]
	if len(backend.addrs) < 2 {
		return
	}
	fmt.Fprintf(b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: to-a, namespace: x}\nspec: {type: NodePort, clusterIP: %[1]s, clusterIPs: [%[1]s, \"%[2]s\"], ipFamilies: [IPv4, IPv6], ports: [{port: 80, targetPort: 81, nodePort: %[3]d}]}\n",
		vips[0], vips[1], nodePort)
	for i, family := range []string{"IPv4", "IPv6"} {
		fmt.Fprintf(b, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: to-a-%d, namespace: x, labels: {kubernetes.io/service-name: to-a}}\naddressType: %s\nports: [{port: 81, protocol: TCP}]\nendpoints: [{addresses: [\"%s\"], nodeName: %s}]\n",
			i, family, backend.addrs[i], backend.node)
	}
}

// write replaces a manifest whole.
func (w *world) write(t *testing.T, file, text string) {
	t.Helper()
	draft := filepath.Join(w.lab.Dir(), "draft")
	ok(t, os.WriteFile(draft, []byte(text), 0o644))
	ok(t, os.Rename(draft, filepath.Join(w.manifests(), file)))
}

// canaryPort is what canaries are asked by in a round: only that port is allowed.
func (w *world) canaryPort() uint16 { return ports[w.rounds%len(ports)] }

// writePolicies has these policies be all there are, but for one that tells by which port the canaries are reached.
func (w *world) writePolicies(t *testing.T, policies string) {
	t.Helper()
	w.rounds++
	w.write(t, "policies.yaml", policies+fmt.Sprintf(`
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: canary, namespace: canary}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: %d}]}]}
`, w.canaryPort()))
}

// enforce writes policies and waits until both nodes enforce them whole: a canary may hear of a change before others do, but of the
// next one not before the first is done.
func (w *world) enforce(t *testing.T, policies string) {
	t.Helper()
	for range 2 {
		w.writePolicies(t, policies)
		for i, c := range w.canaries {
			from, q := w.canaries[1-i], c.question(kind{network: "tcp", port: w.canaryPort()}, 0)
			q.Timeout = 5 * time.Millisecond
			await(t, "the policies on "+c.node, func() error {
				q.Timeout = min(2*q.Timeout, patient)
				heard, err := from.prober.ask([]question{q})
				if err == nil && !heard[0] {
					err = fmt.Errorf("port %d is not heard", w.canaryPort())
				}
				return err
			})
		}
	}
}

// question is one of a kind to the place, by its address of a family.
func (p *place) question(k kind, family int) question {
	return question{Network: k.network, To: netip.AddrPortFrom(p.addrs[family], k.port).String(), Size: k.size, Options: k.options, Timeout: denied}
}

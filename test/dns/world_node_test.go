//go:build node

package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// A world is a node with an agent and pods, and a machine that has the cluster's DNS and the one outside the cluster.
type world struct {
	lab       *netlab.Lab
	node      *netlab.Node
	servers   cloudlab.Machine
	api       *agentapi.Client
	agent     *netlab.Process
	cni       *libcni.CNIConfig
	conflist  *libcni.NetworkConfigList
	manifests string
	loads     []*loading
}

// instanceType is that of the machines: ENIs for all the pods.
const instanceType = "ecs.sim.dns"

const clusterDNSPort = 5353

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{lab: newLab(t)}
	config := sim.DualStackConfig()
	config.Logger = slog.New(slog.DiscardHandler)
	kind := config.InstanceTypes[len(config.InstanceTypes)-1]
	kind.ID, kind.ENIs, kind.AddressesPerENI, kind.IPv6PerENI, kind.TotalQueues = instanceType, 5, 10, 10, 0
	config.InstanceTypes = append(config.InstanceTypes, kind)
	cloud, err := cloudlab.Open(w.lab, cloudlab.Options{Sim: config, InstanceType: instanceType, IPv6: true})
	ok(t, err)
	t.Cleanup(func() { ok(t, cloud.Close()) })
	machine, err := cloud.Machine(t.Context(), "node")
	ok(t, err)
	w.servers, err = cloud.Machine(t.Context(), "servers")
	ok(t, err)
	w.node, err = w.lab.StartNode(netlab.NodeSpec{Name: "node", NetNS: machine.NetNS})
	ok(t, err)
	w.api = agentapi.NewClient(w.node.MachinePath(agentapi.DefaultSocket))
	w.manifests = filepath.Join(w.node.Dir(), "manifests")
	ok(t, os.Mkdir(w.manifests, 0o755))
	ok(t, os.WriteFile(filepath.Join(w.manifests, "all.yaml"), []byte(w.objects()), 0o644))
	text := cloud.AgentConfig("node") + fmt.Sprintf(`manifests: %s
stateDir: %s
pool: {stack: dual}
services: {cidrs: [10.96.0.0/16, "fd00:96::/112"], takeOver: false}
dns: {upstreams: [%s]}
`, w.manifests, filepath.Join(w.node.Dir(), "state"), w.servers.Addr)
	ok(t, os.WriteFile(w.config(), []byte(text), 0o644))
	t.Cleanup(func() {
		if t.Failed() {
			text := w.log()
			t.Logf("the agent's log ends:\n%s", text[max(0, len(text)-8000):])
		}
	})
	return w
}

func (w *world) config() string  { return filepath.Join(w.node.Dir(), "config.yaml") }
func (w *world) logFile() string { return filepath.Join(w.node.Dir(), "agent.log") }

// kubeDNS are the addresses of that Service.
var kubeDNS = []string{"10.96.0.10", "fd00:96::a"}

func (w *world) objects() string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: %[1]s
  clusterIPs: [%[1]s, "%[2]s"]
  ipFamilies: [IPv4, IPv6]
  ports: [{name: dns, port: 53, targetPort: %[3]d, protocol: UDP}, {name: dns-tcp, port: 53, targetPort: %[3]d, protocol: TCP}]
`, kubeDNS[0], kubeDNS[1], clusterDNSPort)
	for i, family := range []string{"IPv4", "IPv6"} {
		fmt.Fprintf(&b, `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-%d, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: %s
ports: [{name: dns, port: %[3]d, protocol: UDP}, {name: dns-tcp, port: %[3]d, protocol: TCP}]
endpoints: [{addresses: ["%s"], nodeName: elsewhere}]
`, i, family, clusterDNSPort, w.servers.Addrs()[i])
	}
	for i := range services {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: svc-%d, namespace: default}\nspec: {clusterIP: %[2]s, clusterIPs: [%[2]s], ports: [{port: 80}]}\n",
			i, clusterIP(i))
	}
	for name, p := range pods {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, annotations: %s}\nspec: {nodeName: node, containers: [{name: c, image: c}]}\n",
			name, p.annotations())
	}
	return b.String()
}

// command is a copy of this program that plays a role.
func command(t *testing.T, in func(ctx context.Context, name string, args ...string) *exec.Cmd, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	ok(t, err)
	cmd := in(context.WithoutCancel(t.Context()), self, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role, "GOMAXPROCS=2")
	cmd.Stderr = os.Stderr
	return cmd
}

// startServer starts a server of all names, and waits until it serves.
func (w *world) startServer(t *testing.T, port uint16) *netlab.Process {
	t.Helper()
	var addrs []string
	for _, a := range w.servers.Addrs() {
		addrs = append(addrs, netip.AddrPortFrom(a, port).String())
	}
	cmd := command(t, w.servers.NetNS.Command, roleServer, addrs...)
	out, in, err := os.Pipe()
	ok(t, err)
	defer out.Close()
	cmd.Stdout = in
	p, err := w.lab.Start(cmd)
	ok(t, err)
	in.Close()
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("start a DNS server: %v", err)
	}
	return p
}

// startAgent starts an agent and waits until it is ready. One that another agent still keeps off is started again, as by
// its kubelet.
func (w *world) startAgent(t *testing.T) {
	t.Helper()
	before := len(w.log())
	w.launch(t)
	await(t, "the agent", func() error {
		select {
		case <-w.agent.Done():
			w.launch(t)
		default:
		}
		if !strings.Contains(w.log()[before:], "node DNS serves") {
			return errors.New("it does not serve yet")
		}
		var view struct{ Waiting []string }
		err := w.api.Get(t.Context(), "/v1/ready", &view)
		if err == nil && len(view.Waiting) > 0 {
			err = fmt.Errorf("it waits for %v", view.Waiting)
		}
		return err
	})
}

// stopAgent asks the agent to end, and does not wait. It is behind nsenter, in one process group with it.
func (w *world) stopAgent() error { return syscall.Kill(-w.agent.PID(), syscall.SIGTERM) }

// log is what agents have written so far.
func (w *world) log() string {
	text, _ := os.ReadFile(w.logFile()) // there is none at first
	return string(text)
}

func (w *world) launch(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(w.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	ok(t, err)
	defer log.Close()
	cmd := w.node.Command(context.WithoutCancel(t.Context()), filepath.Join(os.Getenv(binEnv), "nearpath"), "agent", "--config", w.config())
	cmd.Stdout, cmd.Stderr = log, log
	w.agent, err = w.lab.Start(cmd)
	ok(t, err)
}

// A place asks: a pod, or the node if it has no datapath.
type place struct {
	datapath  string
	byPackets bool
	server    string
}

func (p place) annotations() []byte {
	a := map[string]string{"nearpath.io/datapath": p.datapath}
	if p.byPackets {
		a["nearpath.io/service-path"] = "packets"
	}
	text, _ := json.Marshal(a) // of strings
	return text
}

// pods are one of each kind that any kernel runs.
var pods = map[string]place{
	"veth": {"veth", false, kubeDNS[0]}, "veth-v6": {"veth", false, kubeDNS[1]}, "packets": {"veth", true, kubeDNS[0]},
	"exclusive": {"exclusive", false, kubeDNS[0]}, "exclusive-packets": {"exclusive", true, kubeDNS[1]},
}

// installCNI does what the agent's installer does and reads the network configuration that it wrote, as a runtime does.
func (w *world) installCNI(t *testing.T) {
	t.Helper()
	bin, conf := filepath.Join(w.node.Dir(), "cni", "bin"), filepath.Join(w.node.Dir(), "cni", "net.d")
	ok(t, errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(conf, 0o755)))
	programs := os.Getenv(binEnv)
	cmd := w.node.Command(t.Context(), filepath.Join(programs, "nearpath"), "cni", "install", "--from", programs, "--bin-dir", bin, "--conf-dir", conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install the CNI plugin: %v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(conf, "05-nearpath.conflist"))
	ok(t, err)
	w.conflist, err = libcni.NetworkConfFromBytes(text)
	ok(t, err)
	w.cni = libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(w.node.Dir(), "cni", "cache"), onNode{w.node})
}

// onNode runs CNI plugins on the node instead of on the machine.
type onNode struct{ node *netlab.Node }

func (e onNode) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	cmd := e.node.Command(ctx, plugin)
	cmd.Env, cmd.Stdin = environ, bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", plugin, err, out)
	}
	return out, nil
}

func (e onNode) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

func (e onNode) Decode(text []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(text)
}

// runPod makes a pod with a network.
func (w *world) runPod(t *testing.T, name string, p place) *netlab.Sandbox {
	t.Helper()
	sandbox, err := w.node.StartSandbox(t.Context(), netlab.SandboxSpec{Name: name})
	ok(t, err)
	ok(t, sandbox.SetLoopbackUp())
	var annotations map[string]string
	ok(t, json.Unmarshal(p.annotations(), &annotations))
	_, err = w.cni.AddNetworkList(t.Context(), w.conflist, &libcni.RuntimeConf{
		ContainerID: "c-" + name, NetNS: sandbox.NetNSPath(), IfName: "eth0",
		Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", name}},
		CapabilityArgs: map[string]any{"io.kubernetes.cri.pod-annotations": annotations},
	})
	if err != nil {
		t.Fatalf("CNI ADD of %s: %v", name, err)
	}
	return sandbox
}

// workers is how many ask from one place.
const workers = "4"

// A loading is somebody who asks.
type loading struct {
	name    string
	process *netlab.Process
	stdin   *os.File
	out     bytes.Buffer
}

func (w *world) startLoad(t *testing.T, name, server string, qps int, in func(context.Context, string, ...string) *exec.Cmd) {
	t.Helper()
	cmd := command(t, in, roleLoad, netip.AddrPortFrom(netip.MustParseAddr(server), 53).String(), fmt.Sprint(qps), workers, name)
	l := &loading{name: name}
	in1, stdin, err := os.Pipe()
	ok(t, err)
	t.Cleanup(func() { stdin.Close() })
	l.stdin, cmd.Stdin, cmd.Stdout = stdin, in1, &l.out
	l.process, err = w.lab.Start(cmd)
	ok(t, err)
	in1.Close()
	w.loads = append(w.loads, l)
}

// records ends all who ask, and returns what became of their queries, by name.
func (w *world) records(t *testing.T) map[string][]record {
	t.Helper()
	of := map[string][]record{}
	for _, l := range w.loads {
		l.stdin.Close()
	}
	for _, l := range w.loads {
		ok(t, l.process.Err())
		all := make([]record, l.out.Len()/binary.Size(record{}))
		ok(t, binary.Read(&l.out, binary.NativeEndian, all))
		of[l.name] = all
	}
	return of
}

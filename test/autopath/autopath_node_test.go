//go:build node

package autopath

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// A rig is a node with an agent and one pod, and a machine that is the cluster's DNS and the node's upstream.
type rig struct {
	*netlab.Lab
	bin               string
	node              *netlab.Node
	machine           cloudlab.Machine
	api               *agentapi.Client
	coredns, upstream *server
	dnsAddr           netip.Addr // of both
	pod               *netlab.Sandbox
	link              *tap
	stockConf         string // a resolv.conf that names the cluster's DNS
	resolvers         map[string]resolver
	names             int    // that were looked up
	restart           func() // ends the agent and waits for the next
}

const upstreamPort = 5300

var search = []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}

const manifests = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: team}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports:
- {name: dns, port: 53, protocol: UDP}
- {name: dns-tcp, port: 53, protocol: TCP}
endpoints:
- {addresses: ["%s"], conditions: {ready: true}}
`

const teamService = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: team}
spec:
  clusterIP: 10.96.0.77
  clusterIPs: [10.96.0.77]
  ports: [{port: 80}]
`

func newRig(t *testing.T) *rig {
	t.Helper()
	leaveNothing(t)
	r := &rig{bin: build(t), coredns: new(server), upstream: new(server), resolvers: resolvers(t)}
	for i := range 500 {
		r.upstream.names = append(r.upstream.names, fmt.Sprintf("www%d.example.com.", i))
	}
	r.upstream.names = append(r.upstream.names, "web.team.")
	r.coredns.names = r.upstream.names
	var err error
	r.Lab, err = netlab.New(prefix)
	ok(t, err)
	t.Cleanup(func() { ok(t, r.Close()) })
	config := sim.DefaultConfig()
	config.Logger = slog.New(slog.DiscardHandler)
	cloud, err := cloudlab.Open(r.Lab, cloudlab.Options{Sim: config})
	ok(t, err)
	t.Cleanup(func() { ok(t, cloud.Close()) })
	other, err := cloud.Machine(t.Context(), "dns")
	ok(t, err)
	r.dnsAddr = other.Addr
	r.coredns.serve(t, other.NetNS, netip.AddrPortFrom(other.Addr, 53))
	r.upstream.serve(t, other.NetNS, netip.AddrPortFrom(other.Addr, upstreamPort))
	r.machine, err = cloud.Machine(t.Context(), "node")
	ok(t, err)
	r.node, err = r.StartNode(netlab.NodeSpec{Name: "node", NetNS: r.machine.NetNS})
	ok(t, err)
	r.api = agentapi.NewClient(r.node.MachinePath(agentapi.DefaultSocket))
	r.stockConf = filepath.Join(r.node.Dir(), "resolv-stock")
	ok(t, os.WriteFile(r.stockConf, []byte(resolvConf(r.dnsAddr)), 0o600))
	r.startAgent(t, cloud)
	r.addPod(t)
	return r
}

func (r *rig) manifestDir() string { return filepath.Join(r.Dir(), "manifests") }

// apply writes a manifest whole.
func (r *rig) apply(t *testing.T, file, text string) {
	t.Helper()
	draft := filepath.Join(r.Dir(), ".draft")
	ok(t, os.WriteFile(draft, []byte(text), 0o600))
	ok(t, os.Rename(draft, filepath.Join(r.manifestDir(), file)))
}

func (r *rig) startAgent(t *testing.T, cloud *cloudlab.Cloud) {
	t.Helper()
	ok(t, os.Mkdir(r.manifestDir(), 0o755))
	r.apply(t, "base.yaml", fmt.Sprintf(manifests, r.dnsAddr))
	config, logFile := filepath.Join(r.node.Dir(), "config.yaml"), filepath.Join(r.node.Dir(), "agent.log")
	text := cloud.AgentConfig("node") + fmt.Sprintf("manifests: %s\nstateDir: %s\nlogLevel: debug\ndns: {upstreams: [\"%s\"]}\n",
		r.manifestDir(), filepath.Join(r.node.Dir(), "state"), netip.AddrPortFrom(r.dnsAddr, upstreamPort))
	ok(t, os.WriteFile(config, []byte(text), 0o600))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log ends:\n%s", tail(logFile))
		}
	})
	agent := r.runAgent(t, config, logFile)
	t.Cleanup(func() { agent.Kill() })
	r.restart = func() {
		agent.Kill()
		agent = r.runAgent(t, config, logFile)
	}
}

// runAgent starts an agent and waits until it is ready.
func (r *rig) runAgent(t *testing.T, config, logFile string) *netlab.Process {
	t.Helper()
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ok(t, err)
	defer log.Close()
	cmd := r.node.Command(context.WithoutCancel(t.Context()), filepath.Join(r.bin, "nearpath"), "agent", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	agent, err := r.Start(cmd)
	ok(t, err)
	await(t, patience, "the agent to be ready", func() error {
		select {
		case <-agent.Done():
			return fmt.Errorf("%w: the agent ended: %w", errHopeless, agent.Err())
		default:
		}
		var view struct{ Waiting []string }
		if err := r.api.Get(t.Context(), "/v1/ready", &view); err != nil {
			return err
		}
		if len(view.Waiting) > 0 {
			return fmt.Errorf("it waits for %v", view.Waiting)
		}
		return nil
	})
	return agent
}

// addPod gives a sandbox its network, as containerd does.
func (r *rig) addPod(t *testing.T) {
	t.Helper()
	binDir, confDir := filepath.Join(r.node.Dir(), "cni", "bin"), filepath.Join(r.node.Dir(), "cni", "net.d")
	for _, dir := range []string{binDir, confDir} {
		ok(t, os.MkdirAll(dir, 0o755))
	}
	install := r.node.Command(t.Context(), filepath.Join(r.bin, "nearpath"), "cni", "install", "--from", r.bin, "--bin-dir", binDir, "--conf-dir", confDir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("install the plugin: %v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(confDir, "05-nearpath.conflist"))
	ok(t, err)
	conflist, err := libcni.NetworkConfFromBytes(text)
	ok(t, err)
	r.pod, err = r.node.StartSandbox(t.Context(), netlab.SandboxSpec{
		Name: "shop", ResolvConf: resolvConf(netip.MustParseAddr("10.96.0.10")),
	})
	ok(t, err)
	ok(t, r.pod.SetLoopbackUp())
	ns := netlab.OpenNetNS(r.node.MachinePath(r.pod.NetNSPath()))
	runtime := &libcni.RuntimeConf{
		ContainerID: "shop", NetNS: r.pod.NetNSPath(), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "client"}},
		CapabilityArgs: map[string]any{
			"dns": map[string]any{"servers": []string{"10.96.0.10"}, "searches": search, "options": []string{"ndots:5"}},
		},
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{binDir}, filepath.Join(r.node.Dir(), "cni", "cache"), onNode{r.node})
	_, err = cni.AddNetworkList(t.Context(), conflist, runtime)
	ok(t, err)
	t.Cleanup(func() {
		if err := cni.DelNetworkList(context.WithoutCancel(t.Context()), conflist, runtime); err != nil {
			t.Error(err)
		}
	})
	r.link = newTap(t, ns)
}

func resolvConf(nameserver netip.Addr) string {
	return fmt.Sprintf("nameserver %s\nsearch %s\noptions ndots:5\n", nameserver, strings.Join(search, " "))
}

// A resolver is a command that prints the addresses of a name.
type resolver func(name string) (argv, env []string)

// resolvers are those that pods have: glibc's and Go's own, and musl's and Node.js's where the machine can make them.
func resolvers(t *testing.T) map[string]resolver {
	t.Helper()
	command := func(argv ...string) resolver {
		return func(name string) ([]string, []string) { return append(argv, name), nil }
	}
	all := map[string]resolver{
		"glibc": command("getent", "-A", "ahosts"),
		"Go":    func(name string) (argv, env []string) { return []string{os.Args[0]}, []string{lookupEnv + "=" + name} },
	}
	if compiler, err := exec.LookPath("musl-gcc"); err == nil {
		program := filepath.Join(t.TempDir(), "lookup")
		if out, err := exec.CommandContext(t.Context(), compiler, "-static", "-o", program, "testdata/lookup.c").CombinedOutput(); err != nil {
			t.Fatalf("build with musl: %v: %s", err, out)
		}
		all["musl"] = command(program)
	}
	if node, err := exec.LookPath("node"); err == nil {
		const script = `require("dns").lookup(process.argv[1], {all: true}, (err, all) => {
			if (err) throw err
			for (const a of all) console.log(a.address)
		})`
		all["Node.js"] = command(node, "-e", script)
	}
	return all
}

// useStock is a shell script that becomes its arguments with another resolv.conf.
const useStock = `mount --bind "$1" /etc/resolv.conf; shift; exec "$@"`

// lookup returns the addresses that a program in the pod gets, in order and each once. With stock it asks the cluster's
// DNS itself.
func (r *rig) lookup(t *testing.T, resolver, name string, stock bool) []string {
	t.Helper()
	argv, env := r.resolvers[resolver](name)
	if stock {
		argv = append([]string{"unshare", "-m", "--", "sh", "-ec", useStock, "stock", r.stockConf}, argv...)
	}
	cmd := r.pod.Command(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s looks up %s: %v: %s", resolver, name, err, out)
	}
	var addrs []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			addrs = append(addrs, fields[0])
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// A cost is what a lookup took.
type cost struct {
	sent          int // by the pod
	toCluster, up int // questions that reached the cluster's DNS, and different ones that reached the node's upstream
	toNode        int // datagrams that the node's stack got
}

// price looks a name up and returns what that took.
func (r *rig) price(t *testing.T, resolver, name string, stock bool) cost {
	t.Helper()
	r.link.take(t)
	r.coredns.take()
	r.upstream.take()
	before := datagrams(t, r.machine.NetNS)
	got := r.lookup(t, resolver, name, stock)
	if want := []string{outside6.String(), outside4.String()}; !slices.Equal(got, want) {
		t.Errorf("%s looks up %s: %q, want %q", resolver, name, got, want)
	}
	return cost{r.link.take(t), len(r.coredns.take()), different(r.upstream.take()), int(datagrams(t, r.machine.NetNS) - before)}
}

func different(asked []string) int {
	slices.Sort(asked)
	return len(slices.Compact(asked))
}

func TestWire(t *testing.T) {
	r := newRig(t)
	t.Run("counts", func(t *testing.T) { testCounts(t, r) })
	t.Run("a new Service", func(t *testing.T) { testNewService(t, r) })
	t.Run("another agent", func(t *testing.T) { testRestart(t, r) })
}

// An external name, ndots 5: cold, two packets leave the pod and nothing reaches the cluster's DNS; once it is wanted, the
// kernel answers both and nothing reaches the node. The same pod that asks the cluster's DNS itself sends eight, and all
// reach it.
func testCounts(t *testing.T, r *rig) {
	t.Helper()
	for _, resolver := range slices.Sorted(maps.Keys(r.resolvers)) {
		var name string
		cold := tried(t, resolver+", cold", func(c cost) bool { return c == cost{sent: 2, up: 2, toNode: c.toNode} }, func() cost {
			name = r.another()
			return r.price(t, resolver, name, false)
		})
		asked := 1
		var warm cost
		await(t, patience, "the kernel to answer", func() error {
			asked++
			if warm = r.price(t, resolver, name, false); warm != (cost{sent: 2}) {
				return fmt.Errorf("%+v", warm)
			}
			return nil
		})
		stock := tried(t, resolver+", without us", func(c cost) bool { return c.sent == 8 && c.toCluster == 8 }, func() cost {
			return r.price(t, resolver, name, true)
		})
		t.Logf("%s: cold %+v; warm at lookup %d %+v; without us %+v", resolver, cold, asked, warm, stock)
	}
}

// tried returns the cost that is good. On a machine that stood still a resolver asks again, so one of a few has to be.
func tried(t *testing.T, what string, good func(cost) bool, price func() cost) (c cost) {
	t.Helper()
	for range 3 {
		if c = price(); good(c) {
			return c
		}
	}
	t.Errorf("%s: %+v", what, c)
	return c
}

// another is a name that nobody has looked up.
func (r *rig) another() string {
	r.names++
	return fmt.Sprintf("www%d.example.com", r.names)
}

// A Service whose name ends a search earlier is found at once, in whatever had kept the search: its TTL is 30 s.
func testNewService(t *testing.T, r *rig) {
	t.Helper()
	const name = "web.team"
	outside := []string{outside6.String(), outside4.String()}
	for range 3 { // the third time from the kernel
		if got := r.lookup(t, "Go", name, false); !slices.Equal(got, outside) {
			t.Fatalf("before: %q, want %q", got, outside)
		}
	}
	r.apply(t, "team.yaml", teamService)
	await(t, 10*time.Second, "the new Service", func() error {
		if got := r.lookup(t, "Go", name, false); !slices.Equal(got, []string{"10.96.0.77"}) {
			return fmt.Errorf("%s is %q", name, got)
		}
		return nil
	})
}

// An agent that follows another knows how the node's pods search without any ADD, and the kernel keeps nothing of what the
// searches of the one before found.
func testRestart(t *testing.T, r *rig) {
	t.Helper()
	r.restart()
	await(t, patience, "the search of the pod to be known", func() error {
		if cold := r.price(t, "Go", r.another(), false); cold != (cost{sent: 2, up: 2, toNode: cold.toNode}) {
			return fmt.Errorf("%+v", cold)
		}
		return nil
	})
}

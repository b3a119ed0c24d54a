// Package demo runs nearpath's main job where anyone can watch it: two simulated ECS instances in a simulated VPC, an
// agent on each, and an ordinary application whose pods find and reach each other by name, while it is scaled and
// while an agent is killed. Everything is real but the cloud: namespaces, links, BPF, CNI, DNS.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// clusterDNS is the address of the kube-dns Service in app/dns.yaml.
const clusterDNS = "10.96.0.10"

// prefix begins the name of everything the demo makes on the machine.
const prefix = "nearpath-demo"

// Config is what Run needs.
type Config struct {
	Out io.Writer
	// Bin holds the project's programs: nearpath, nearpath-cni, coredns and podapp.
	Bin string
	// Keep leaves everything up until the context ends.
	Keep bool
	// DualStack gives pods IPv6 addresses, too, and the application a Service of that family.
	DualStack bool
}

// A demo is one run.
type demo struct {
	Config
	started time.Time
	lab     *netlab.Lab
	cloud   *cloudlab.Cloud
	nodes   []*node
	client  cloudlab.Machine // that is no node
	app     *application
	pods    []*pod
}

// Run does it all and cleans up. It reports progress as it goes, and ends with the line "demo: ok" or returns the
// step that failed and what was seen.
func Run(ctx context.Context, cfg Config) (err error) {
	d := &demo{Config: cfg, started: time.Now()}
	if err := netlab.Sweep(prefix); err != nil {
		return fmt.Errorf("demo: remove what an earlier run left: %w", err)
	}
	before, err := netlab.TakeInventory()
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, d.close(), leftBehind(before)) }()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"build a simulated VPC and two instances in it", d.buildCloud},
		{"start an agent on each node", d.startAgents},
		{"deploy the application", d.deploy},
		{"show each pod's ENI and address", d.showPods},
		{"resolve and call Services by name, on the same node and across", d.callByName},
		{"call from a machine that is no node, by ports of the nodes", d.callFromOutside},
		{"measure", d.measure},
		{"scale up and down under traffic", d.scale},
		{"isolate a pod by a NetworkPolicy", d.isolate},
		{"kill an agent under traffic", d.restartAgent},
	} {
		d.say("%s", step.name)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("demo: %s: %w", step.name, err)
		}
	}
	if d.Keep {
		d.explainKeep()
		<-ctx.Done()
	}
	return nil
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.Out, "[%5.1fs] %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) detail(format string, args ...any) {
	fmt.Fprintf(d.Out, "         "+format+"\n", args...)
}

// close takes everything down, in reverse.
func (d *demo) close() error {
	var errs []error
	if d.cloud != nil {
		errs = append(errs, d.cloud.Close())
	}
	if d.lab != nil {
		errs = append(errs, d.lab.Close())
	}
	return errors.Join(errs...)
}

// leftBehind compares the machine with what it was before the demo.
func leftBehind(before netlab.Inventory) error {
	after, err := netlab.TakeInventory()
	if err != nil {
		return err
	}
	// Only what bears the demo's name: others may come and go on this machine meanwhile.
	if left := before.Containing(prefix).Diff(after.Containing(prefix)); len(left) > 0 {
		return fmt.Errorf("demo: left behind on the machine: %s", strings.Join(left, ", "))
	}
	return nil
}

func (d *demo) buildCloud(ctx context.Context) error {
	var err error
	if d.lab, err = netlab.New(prefix); err != nil {
		return err
	}
	if d.cloud, err = cloudlab.Open(d.lab, cloudlab.Options{Sim: d.simulated(), InstanceType: "ecs.sim.large"}); err != nil {
		return err
	}
	if err := os.Mkdir(d.manifests(), 0o755); err != nil {
		return err
	}
	if d.app, err = loadApplication(d.manifests(), d.DualStack); err != nil {
		return err
	}
	for _, name := range []string{"node-a", "node-b"} {
		if err := d.addNode(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// simulated is the cloud's configuration.
func (d *demo) simulated() sim.Config {
	config := sim.DefaultConfig()
	config.Logger = slog.New(slog.DiscardHandler)
	if d.DualStack {
		config.VPCIPv6CIDR = netip.MustParsePrefix("2001:db8:0:100::/56") // RFC 3849: for documentation
		for i := range config.VSwitches {
			config.VSwitches[i].IPv6CIDR = netip.MustParsePrefix(fmt.Sprintf("2001:db8:0:10%d::/64", i))
		}
	}
	return config
}

// agentConfig is the configuration of a node's agent.
func (d *demo) agentConfig(node string) string {
	text := d.cloud.AgentConfig(node) + "manifests: " + manifestsOnNode + "\ncni: {confDir: /etc/cni/net.d}\n"
	if d.DualStack {
		text += "pool: {stack: dual}\n"
	}
	return text
}

func (d *demo) manifests() string { return filepath.Join(d.lab.Dir(), "manifests") }

func (d *demo) addNode(ctx context.Context, name string) error {
	machine, err := d.cloud.Machine(ctx, name)
	if err != nil {
		return err
	}
	n, err := d.lab.StartNode(netlab.NodeSpec{
		Name: name, NetNS: machine.NetNS, Overlays: []string{"/etc", "/var", "/opt"},
		Files: map[string]string{
			configOnNode:            d.agentConfig(name),
			"/etc/coredns/Corefile": corefile,
			"/etc/resolv.conf":      "nameserver 100.100.2.136\n",
		},
		Binds: []netlab.Bind{{Source: d.manifests(), Target: manifestsOnNode}},
	})
	if err != nil {
		return err
	}
	d.nodes = append(d.nodes, &node{Node: n, name: name, addr: machine.Addr, bin: d.Bin, lab: d.lab})
	d.detail("%s is instance %s at %s", name, machine.ID, machine.Addr)
	return nil
}

// corefile is the configuration of the cluster's own DNS pods.
const corefile = `. {
	errors
	nearpath cluster.local in-addr.arpa {
		manifests ` + manifestsOnNode + `
	}
}
`

func (d *demo) startAgents(ctx context.Context) error {
	for _, n := range d.nodes {
		for _, do := range []func(context.Context) error{n.installCNI, n.startAgent} {
			if err := do(ctx); err != nil {
				return err
			}
		}
		if err := n.loadCNI(); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) deploy(ctx context.Context) error {
	for _, deployment := range d.app.deployments {
		for i := range int(*deployment.Spec.Replicas) {
			p := &pod{
				namespace: deployment.Namespace, name: fmt.Sprintf("%s-%d", deployment.Name, i), template: &deployment.Spec.Template,
			}
			if err := d.addPod(ctx, p, d.nodes[i%len(d.nodes)]); err != nil {
				return err
			}
		}
	}
	return nil
}

// addPod starts a pod and makes it an endpoint once it is ready.
func (d *demo) addPod(ctx context.Context, p *pod, on *node) error {
	if err := on.startPod(ctx, p); err != nil {
		return err
	}
	if err := p.awaitReady(ctx); err != nil {
		return fmt.Errorf("%w; its log ends: %s", err, tail(filepath.Join(on.Dir(), "pod-"+p.name+".log")))
	}
	d.pods = append(d.pods, p)
	return d.app.writeSlices(d.manifests(), d.pods)
}

// removePod takes a pod away as Kubernetes does: it stops being a ready endpoint, drains, and then goes.
func (d *demo) removePod(ctx context.Context, p *pod) error {
	p.terminating = true
	if err := d.app.writeSlices(d.manifests(), d.pods); err != nil {
		return err
	}
	if err := p.stop(ctx); err != nil {
		return fmt.Errorf("stop %s/%s: %w", p.namespace, p.name, err)
	}
	for i, have := range d.pods {
		if have == p {
			d.pods = append(d.pods[:i], d.pods[i+1:]...)
			break
		}
	}
	return d.app.writeSlices(d.manifests(), d.pods)
}

// find returns the i-th pod of a Deployment.
func (d *demo) find(deployment string, i int) *pod {
	name := fmt.Sprintf("%s-%d", deployment, i)
	for _, p := range d.pods {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (d *demo) explainKeep() {
	d.say("kept; everything goes when you end this with Ctrl-C. Meanwhile, as root:")
	shopper := d.find("shopper", 0)
	enter, nearpath := shopper.node.EnterFile(), filepath.Join(d.Bin, "nearpath")
	d.detail("enter a pod:      %s, then for example: %s get http://web/", shopper.sandbox.EnterFile(), filepath.Join(d.Bin, "podapp"))
	d.detail("list Services:    %s %s get services", enter, nearpath)
	d.detail("list pods:        %s %s get pods", enter, nearpath)
	d.detail("scale, by hand:   edit the files in %s", d.manifests())
}

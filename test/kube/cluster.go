package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// Patience is how long Start and the waits of a Cluster wait for a condition. A busy machine of two processors needs
// a tenth of it.
const Patience = 90 * time.Second

// A Config says what a cluster is like. The zero value is a control plane and no nodes, on a bridge.
type Config struct {
	Lab *netlab.Lab // owns all; nil: Start opens one and closes it with the cluster

	// ControlPlane and the NetNS and Addr of all Nodes are given, or none is: then Start joins the namespaces it makes
	// by a bridge, and gives nodes a CNI configuration that makes them Ready but connects no pods.
	ControlPlane ControlPlane
	Nodes        []NodeSpec

	ServiceCIDR netip.Prefix // default 10.96.0.0/16
	ClusterDNS  netip.Addr   // the name server in pods' resolv.conf; default: the 10th address of ServiceCIDR
	Images      []Image      // on every node, besides PodappImage
}

// A ControlPlane says where the control plane runs. Addr is one that the nodes reach; the API is on port 6443.
type ControlPlane struct {
	NetNS *netlab.NetNS
	Addr  netip.Addr
}

// A NodeSpec says where a node runs. The namespace has to be connected before Start.
type NodeSpec struct {
	Name       string
	NetNS      *netlab.NetNS
	Addr       netip.Addr        // the node's InternalIP
	ResolvConf string            // the node's /etc/resolv.conf; default: no name server
	ProviderID string            // spec.providerID, if any
	Labels     string            // node labels as kubelet takes them: "a=b,c=d"
	Binds      []netlab.Bind     // more to show on the node
	Files      map[string]string // more files below /etc, /opt or /var
}

// A Cluster is a running Kubernetes cluster.
type Cluster struct {
	cfg   Config
	lab   *netlab.Lab
	tools []string
	dir   string
	token string
	api   apiClient

	control []service // in the order they were started
	nodes   []*Node
	laps    stopwatch
}

// A stopwatch notes how long each step of a start took.
type stopwatch struct {
	last time.Time
	text []string
}

func (s *stopwatch) lap(step string) {
	now := time.Now()
	if !s.last.IsZero() {
		s.text = append(s.text, fmt.Sprintf("%s %.1fs", step, now.Sub(s.last).Seconds()))
	}
	s.last = now
}

// Start starts a cluster and returns when its API works, the default ServiceAccount exists and all nodes have
// registered. They are Ready only once they have a CNI configuration: see WaitReady and Node.CNIConfDir. When the
// test ends everything is removed; when it failed, the logs' ends are printed first.
func Start(tb testing.TB, cfg Config) *Cluster {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Minute) // long enough to build the tools
	defer cancel()
	c, err := newCluster(ctx, cfg)
	if err != nil {
		tb.Fatalf("start cluster: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			c.diagnose(tb)
		}
		if err := c.close(); err != nil {
			tb.Errorf("close cluster: %v", err)
		}
	})
	if err := c.start(ctx); err != nil {
		tb.Fatalf("start cluster: %v", err)
	}
	tb.Logf("cluster started: %s", strings.Join(c.laps.text, ", "))
	return c
}

// newCluster makes what has to be there before the first program is started.
func newCluster(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := netlab.RequireRoot(); err != nil {
		return nil, err
	}
	if err := preparePackages(ctx); err != nil {
		return nil, err
	}
	tools, err := prepareTools(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	cfg.Nodes = slices.Clone(cfg.Nodes) // bridge fills them in
	c := &Cluster{cfg: cfg, lab: cfg.Lab, tools: tools}
	if c.lab == nil {
		if c.lab, err = openLab(); err != nil {
			return nil, err
		}
	}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// labPrefix is followed by the process id, so that two tests can have a cluster each.
const labPrefix = "npkube"

func openLab() (*netlab.Lab, error) {
	if err := netlab.Sweep(labPrefix); err != nil {
		return nil, err
	}
	return netlab.New(fmt.Sprintf("%s-%d", labPrefix, os.Getpid()))
}

func (c *Cluster) prepare(ctx context.Context) error {
	c.laps.lap("")
	c.setDefaults()
	c.dir = filepath.Join(c.lab.Dir(), "kube")
	if err := os.MkdirAll(c.binDir(), 0o755); err != nil {
		return err
	}
	if c.cfg.ControlPlane.NetNS == nil {
		if err := c.bridge(); err != nil {
			return err
		}
	}
	if err := c.collectPrograms(ctx); err != nil {
		return err
	}
	if err := c.saveImages(); err != nil {
		return err
	}
	defer c.laps.lap("programs and images")
	return c.writeCredentials()
}

func (c *Cluster) setDefaults() {
	if !c.cfg.ServiceCIDR.IsValid() {
		c.cfg.ServiceCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 96, 0, 0}), 16)
	}
	if !c.cfg.ClusterDNS.IsValid() {
		c.cfg.ClusterDNS = c.cfg.ServiceCIDR.Masked().Addr()
		for range 10 {
			c.cfg.ClusterDNS = c.cfg.ClusterDNS.Next()
		}
	}
}

// binDir is first in the PATH of everything the cluster runs.
func (c *Cluster) binDir() string { return filepath.Join(c.dir, "bin") }

// program is the path of one of the programs in binDir.
func (c *Cluster) program(name string) string { return filepath.Join(c.binDir(), name) }

// collectPrograms fills binDir with links to the tools, the harness's own programs and the machine's.
func (c *Cluster) collectPrograms(ctx context.Context) error {
	const own = "github.com/nearpath/nearpath/test/"
	if err := buildOwn(ctx, c.binDir(), own+"kube/pause", own+"kube/runcwrap", own+"podapp"); err != nil {
		return err
	}
	for _, dir := range c.tools {
		programs, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, p := range programs {
			if err := os.Symlink(filepath.Join(dir, p.Name()), c.program(p.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// start starts the control plane, then all nodes at once.
func (c *Cluster) start(ctx context.Context) error {
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	c.laps.lap("control plane")
	errs := make([]error, len(c.cfg.Nodes))
	c.nodes = make([]*Node, len(c.cfg.Nodes))
	var starting sync.WaitGroup
	for i, spec := range c.cfg.Nodes {
		starting.Go(func() { c.nodes[i], errs[i] = c.startNode(ctx, spec) })
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.laps.lap("nodes")
	defer c.laps.lap("ServiceAccount")
	return c.awaitServiceAccount(ctx)
}

// close stops the nodes, then the control plane, the latest started first.
func (c *Cluster) close() error {
	if c.cfg.Lab == nil {
		return c.lab.Close() // kills in this order as well, and at once: the apiserver lingers after a SIGTERM
	}
	var errs []error
	for _, n := range c.nodes {
		if n != nil {
			errs = append(errs, n.Stop())
		}
	}
	for _, s := range slices.Backward(c.control) {
		s.process.Kill()
	}
	return errors.Join(errs...)
}

// Lab is what owns the cluster's namespaces, nodes and processes.
func (c *Cluster) Lab() *netlab.Lab { return c.lab }

// Node finds a node by name.
func (c *Cluster) Node(tb testing.TB, name string) *Node {
	tb.Helper()
	for _, n := range c.nodes {
		if n.Name() == name {
			return n
		}
	}
	tb.Fatalf("no node %q in the cluster", name)
	return nil
}

// Nodes lists the nodes in the order of the Config.
func (c *Cluster) Nodes() []*Node { return c.nodes }

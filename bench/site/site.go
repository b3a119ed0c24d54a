// Package site is a pod, its node, and a server on the far side of the node: three network namespaces. Every contender of a
// benchmark has one of its own, so that what one puts into the kernel's network does not slow another down. The node is a
// machine of its own to what runs on it, with a cgroup and a bpffs.
package site

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nearpath/nearpath/bench/links"
	"github.com/nearpath/nearpath/bench/remote"
	"github.com/nearpath/nearpath/bench/tcp"
	"github.com/nearpath/nearpath/test/netlab"
)

// A Site is one. Its namespaces and processes go with the lab.
type Site struct {
	Node *netlab.Node

	lab    *netlab.Lab
	client *netlab.NetNS
	bin    string
}

// A Plan says what addresses a site has beside those that all have.
type Plan struct {
	// Served are addresses of the server, and Beyond a network that has them and that leads there.
	Served []netip.Addr
	Beyond netip.Prefix
	// Virtual is a network of which only the node knows where it leads; the zero Prefix: there is none.
	Virtual netip.Prefix
}

// Addresses of every site.
var (
	// Pod is the pod's, and ByPod and ByServer are the node's on the links to the two.
	Pod      = netip.MustParseAddr("10.90.0.2")
	ByPod    = netip.MustParseAddr("10.90.0.1")
	ByServer = netip.MustParseAddr("10.90.1.1")
	server   = netip.MustParseAddr("10.90.1.2")
)

// PodLink is the link on the node that leads to the pod.
const PodLink = "client"

// New wires the site and returns when its server listens, see package tcp. bin is where the program bench is.
func New(ctx context.Context, lab *netlab.Lab, name, bin string, plan Plan) (*Site, error) {
	s := &Site{lab: lab, bin: bin}
	var namespaces []*netlab.NetNS
	for _, part := range []string{"node", "client", "server"} {
		ns, err := lab.NetNS(name + "-" + part)
		if err != nil {
			return nil, err
		}
		namespaces = append(namespaces, ns)
	}
	node, client, server := namespaces[0], namespaces[1], namespaces[2]
	s.client = client
	if err := plan.wire(node, client, server); err != nil {
		return nil, err
	}
	var err error
	if s.Node, err = lab.StartNode(netlab.NodeSpec{Name: name, NetNS: node}); err != nil {
		return nil, err
	}
	return s, s.startServer(ctx, server)
}

// wire leads from the pod by the node to the server. What the server gets for others it drops.
func (p Plan) wire(node, client, far *netlab.NetNS) error {
	on := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 24) }
	if err := errors.Join(links.Pair(node, client, PodLink, "eth0"), links.Pair(node, far, "server", "eth0")); err != nil {
		return err
	}
	return errors.Join(
		node.Do(func() error {
			return errors.Join(
				links.Address(PodLink, on(ByPod)), links.Address("server", on(ByServer)), links.Route(p.Beyond, server), forward(true))
		}),
		client.Do(func() error {
			errs := []error{links.Address("eth0", on(Pod)), links.Route(p.Beyond, ByPod)}
			if p.Virtual.IsValid() {
				errs = append(errs, links.Route(p.Virtual, ByPod))
			}
			return errors.Join(errs...)
		}),
		far.Do(func() error {
			errs := []error{links.Address("eth0", on(server)), links.Route(netip.MustParsePrefix("0.0.0.0/0"), ByServer), forward(false)}
			for _, a := range p.Served {
				errs = append(errs, links.Address("lo", netip.PrefixFrom(a, 32)))
			}
			return errors.Join(errs...)
		}),
	)
}

// forward says whether the calling goroutine's namespace passes on what is for others.
func forward(yes bool) error {
	value := "0"
	if yes {
		value = "1"
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0)
}

// startServer returns when the server listens.
func (s *Site) startServer(ctx context.Context, server *netlab.NetNS) error {
	cmd := server.Command(context.WithoutCancel(ctx), filepath.Join(s.bin, "bench"), tcp.Role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if _, err := s.lab.Start(cmd); err != nil {
		return errors.Join(err, in.Close())
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the server to listen: %w", err)
	}
	return nil
}

// A Place is where a client runs: in the pod's network namespace, and with the hooks of the node's cgroup or without them.
type Place string

// The places.
const (
	Bare   Place = "bare"
	Hooked Place = "hooked"
)

// ConnectClient starts this program in the pod, as what a role is.
func (s *Site) ConnectClient(ctx context.Context, role string, where Place) (*remote.Process, error) {
	cmd := s.client.Command(context.WithoutCancel(ctx), filepath.Join(s.bin, "bench"), role)
	if where == Hooked {
		path := s.Node.PodCgroup("client")
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, err
		}
		cgroup, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer cgroup.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	}
	return s.connect("a client", cmd)
}

// ConnectNode starts a process of the node.
func (s *Site) ConnectNode(ctx context.Context, name, program string, args ...string) (*remote.Process, error) {
	return s.connect(name, s.Node.Command(context.WithoutCancel(ctx), program, args...))
}

func (s *Site) connect(name string, cmd *exec.Cmd) (*remote.Process, error) {
	cmd.Stderr = os.Stderr
	return remote.Connect(name, cmd, func(cmd *exec.Cmd) error {
		_, err := s.lab.Start(cmd)
		return err
	})
}

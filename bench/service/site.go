package service

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
	"github.com/nearpath/nearpath/test/netlab"
)

// A site is a pod, its node, and a server on the far side of the node: three network namespaces. Every contender has one of
// its own, so that what one puts into the kernel's network does not slow another down. The node is a machine of its own to
// what runs on it, with a cgroup and a bpffs.
type site struct {
	lab    *netlab.Lab
	node   *netlab.Node
	client *netlab.NetNS
	bin    string
}

const forwarding = "/proc/sys/net/ipv4/ip_forward"

func newSite(ctx context.Context, lab *netlab.Lab, name, bin string) (*site, error) {
	s := &site{lab: lab, bin: bin}
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
	if err := wire(node, client, server); err != nil {
		return nil, err
	}
	var err error
	if s.node, err = lab.StartNode(netlab.NodeSpec{Name: name, NetNS: node}); err != nil {
		return nil, err
	}
	return s, s.startServer(ctx, server)
}

// wire leads from the client by the node to the server.
func wire(node, client, server *netlab.NetNS) error {
	prefix := netip.MustParsePrefix
	everything := prefix("0.0.0.0/0")
	if err := errors.Join(links.Pair(node, client, "client", "eth0"), links.Pair(node, server, "server", "eth0")); err != nil {
		return err
	}
	return errors.Join(
		node.Do(func() error {
			return errors.Join(
				links.Address("client", prefix("10.90.0.1/24")), links.Address("server", prefix("10.90.1.1/24")),
				links.Route(serverAddrs, netip.MustParseAddr("10.90.1.2")), os.WriteFile(forwarding, []byte("1"), 0))
		}),
		client.Do(func() error {
			return errors.Join(
				links.Address("eth0", prefix("10.90.0.2/24")), links.Route(serverAddrs, netip.MustParseAddr("10.90.0.1")),
				links.Route(clusterIPs, netip.MustParseAddr("10.90.0.1")))
		}),
		server.Do(func() error {
			errs := []error{links.Address("eth0", prefix("10.90.1.2/24")), links.Route(everything, netip.MustParseAddr("10.90.1.1"))}
			for _, a := range served() {
				errs = append(errs, links.Address("lo", netip.PrefixFrom(a, 32)))
			}
			return errors.Join(errs...)
		}),
	)
}

// startServer returns when the server listens.
func (s *site) startServer(ctx context.Context, server *netlab.NetNS) error {
	cmd := server.Command(context.WithoutCancel(ctx), filepath.Join(s.bin, "bench"), roleServer)
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

// A place is where a client runs: in the pod's network namespace, and with the hooks of the node's cgroup or without them.
type place string

const (
	bare   place = "bare"
	hooked place = "hooked"
)

// connectClient starts a client of the pod.
func (s *site) connectClient(ctx context.Context, where place) (*remote.Process, error) {
	cmd := s.client.Command(context.WithoutCancel(ctx), filepath.Join(s.bin, "bench"), roleClient)
	if where == hooked {
		path := s.node.PodCgroup("client")
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

// connectNode starts a process of the node.
func (s *site) connectNode(ctx context.Context, name, program string, args ...string) (*remote.Process, error) {
	return s.connect(name, s.node.Command(context.WithoutCancel(ctx), program, args...))
}

func (s *site) connect(name string, cmd *exec.Cmd) (*remote.Process, error) {
	cmd.Stderr = os.Stderr
	return remote.Connect(name, cmd, func(cmd *exec.Cmd) error {
		_, err := s.lab.Start(cmd)
		return err
	})
}

// Package dns measures what a pod waits for when it asks for names, what that costs the node, and what names take in memory,
// beside caches that nodes have without nearpath.
package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nearpath/nearpath/bench/agentnode"
	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/podruntime"
	"github.com/nearpath/nearpath/bench/remote"
)

// Benchmark is what names cost.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "dns", What: "DNS as a pod sees it, beside unbound, CoreDNS and an echo server", Setup: setup}
}

// prefix begins the name of everything the benchmark makes on the machine.
const prefix = "nearpath-bench-dns"

// What this program can be executed as, elsewhere.
const (
	roleClient   = "dns-client"
	roleUpstream = "dns-upstream"
)

// Roles are what the program must be able to be.
func Roles() map[string]func(io.Reader, io.Writer) error {
	return map[string]func(io.Reader, io.Writer) error{roleClient: serveClient, roleUpstream: serveUpstream}
}

// instanceType is that of the smallest node.
const instanceType = "ecs.sim.large"

// clusterDNS is what the pod has as its name server.
var clusterDNS = netip.MustParseAddr("10.96.0.10")

// hot is a name that everybody has the answer of.
const hot = "www.hot.example"

// patience is for one answer of a server that may not be there yet.
const patience = 200 * time.Millisecond

var config = fmt.Sprintf("dns:\n  upstreams: [%s]\n", upstreamAddr)

var manifests = fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: %[1]s
  clusterIPs: [%[1]s]
  ipFamilies: [IPv4]
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
`, clusterDNS)

// A bed is a node with an agent, a pod whose clients ask, and all who answer.
type bed struct {
	node       *agentnode.Node
	runtime    *podruntime.Runtime
	bin, peers string
	quick      bool
	client     *remote.Process // in the pod
	beside     *remote.Process // on the node itself, which asks the upstream
	upstream   *remote.Process
	ours       *contender
	contenders []*contender // ours is the first, the echo server the last
	cold       int          // names that nobody has asked for begin with numbers from here
}

func setup(ctx context.Context, env measure.Env) (*measure.Bed, error) {
	b := &bed{bin: env.Bin, peers: env.Peers, quick: env.Quick}
	if err := b.build(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return &measure.Bed{Series: b.all(), Close: b.close}, nil
}

func (b *bed) close() error {
	var err error
	if b.runtime != nil {
		err = b.runtime.Close()
	}
	if b.node == nil {
		return err
	}
	return errors.Join(err, b.node.Close())
}

func (b *bed) build(ctx context.Context) (err error) {
	b.node, err = agentnode.Start(ctx, agentnode.Spec{
		Prefix: prefix, Bin: b.bin, InstanceType: instanceType, Config: config, Manifests: map[string]string{"cluster.yaml": manifests},
	})
	if err != nil {
		return err
	}
	if b.upstream, err = b.connect(ctx, "the upstream", roleUpstream); err != nil {
		return err
	}
	if err := b.upstream.Ask(ctx, verbListen, upstreamAddr, nil); err != nil {
		return err
	}
	if b.beside, err = b.connect(ctx, "a client on the node", roleClient); err != nil {
		return err
	}
	if err := b.addPod(ctx, "pod"); err != nil {
		return fmt.Errorf("add a pod: %w", err)
	}
	agent, err := childOf(b.node.Agent.PID())
	if err != nil {
		return err
	}
	b.ours = &contender{name: "nearpath", role: measure.Subject, server: netip.AddrPortFrom(clusterDNS, 53), pid: agent}
	b.contenders = []*contender{b.ours}
	if err := b.startPeers(ctx); err != nil {
		return err
	}
	return b.warm(ctx, hot)
}

// connect starts this program on the node as something else.
func (b *bed) connect(ctx context.Context, name, role string) (*remote.Process, error) {
	cmd := b.node.Command(context.WithoutCancel(ctx), filepath.Join(b.bin, "bench"), role)
	cmd.Stderr = os.Stderr
	return remote.Connect(name, cmd, b.start)
}

func (b *bed) start(cmd *exec.Cmd) error {
	_, err := b.node.Lab.Start(cmd)
	return err
}

// addPod has the agent wire a pod as a container runtime would, and starts a client in it.
func (b *bed) addPod(ctx context.Context, name string) error {
	cmd := b.node.Command(context.WithoutCancel(ctx), filepath.Join(b.bin, "bench"), "runtime")
	cmd.Stderr = os.Stderr
	var err error
	if b.runtime, err = podruntime.Connect(cmd, b.start); err != nil {
		return err
	}
	if err := b.runtime.MakeNetNS(ctx, []string{name}); err != nil {
		return err
	}
	call := podruntime.Call{
		Program: filepath.Join(b.bin, "nearpath-cni"), Stdin: `{"cniVersion": "1.1.0", "name": "nearpath", "type": "nearpath-cni"}`,
		Env: []string{
			"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + name, "CNI_NETNS=" + podruntime.Path(name), "CNI_IFNAME=eth0",
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + name, "CNI_PATH=" + b.bin, "PATH=/usr/bin:/bin",
		},
	}
	if _, err := b.runtime.Run(ctx, podruntime.Batch{Calls: []podruntime.Call{call}, AtATime: 1}); err != nil {
		return err
	}
	if b.client, err = b.connect(ctx, "a client in the pod", roleClient); err != nil {
		return err
	}
	return errors.Join(b.client.Ask(ctx, verbEnter, podruntime.Path(name), nil), b.client.Ask(ctx, verbPin, clientCPU, nil))
}

// warm asks for a name until the kernel answers.
func (b *bed) warm(ctx context.Context, name string) error {
	return b.node.Await(ctx, func() string {
		by, err := b.answeredByKernel(ctx, func() error {
			_, err := b.ask(ctx, b.ours, []string{name}, 1)
			return err
		})
		switch {
		case err != nil:
			return err.Error()
		case by == 0:
			return "the kernel has no answer to " + name
		}
		return ""
	})
}

// answeredByKernel is how many questions the kernel answered meanwhile.
func (b *bed) answeredByKernel(ctx context.Context, meanwhile func() error) (uint64, error) {
	var before, after uint64
	if err := b.beside.Ask(ctx, verbHits, nil, &before); err != nil {
		return 0, err
	}
	if err := meanwhile(); err != nil {
		return 0, err
	}
	err := b.beside.Ask(ctx, verbHits, nil, &after)
	return after - before, err
}

// fresh are names that nobody has asked for.
func (b *bed) fresh(n int) []string {
	names := make([]string, n)
	for i := range names {
		b.cold++
		names[i] = fmt.Sprintf("n%d.cold.example", b.cold)
	}
	return names
}

// by is the contender of a name.
func (b *bed) by(name string) *contender {
	for _, c := range b.contenders {
		if c.name == name {
			return c
		}
	}
	panic("no contender is " + name)
}

// rounds is how many there are: the first number, or the second one in a quick run.
func (b *bed) rounds(all, quick int) int {
	if b.quick {
		return quick
	}
	return all
}

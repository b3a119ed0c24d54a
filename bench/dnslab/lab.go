// Package dnslab is what benchmarks of DNS measure on: a node with an agent, a pod that asks, an upstream that knows every name,
// and other servers on the node.
package dnslab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nearpath/nearpath/bench/agentnode"
	"github.com/nearpath/nearpath/bench/podruntime"
	"github.com/nearpath/nearpath/bench/remote"
	"github.com/nearpath/nearpath/test/netlab"
)

// What this program can be executed as, elsewhere.
const (
	roleClient   = "dns-client"
	roleUpstream = "dns-upstream"
)

// Roles are what the program must be able to be.
func Roles() map[string]func(io.Reader, io.Writer) error {
	return map[string]func(io.Reader, io.Writer) error{roleClient: serveClient, roleUpstream: serveUpstream}
}

// Clients are on one processor. Who answers is on the other one, or on the same: waking another processor takes longer than
// most answers do.
const (
	ClientCPU = 0
	OtherCPU  = 1
)

// The addresses of a node.
var (
	// ClusterDNS is what pods have as their name server.
	ClusterDNS = netip.MustParseAddr("10.96.0.10")
	// NodeDNS is where the node's own listener is. Other servers are there, too, on other ports, so that every packet has the
	// same way.
	NodeDNS = netip.MustParseAddr("169.254.20.10")
	// UpstreamAddr is where those ask that have no answer.
	UpstreamAddr = netip.MustParseAddrPort("127.0.0.5:53")
)

// Domain is the cluster's, and Namespace the pod's.
const (
	Domain    = "cluster.local"
	Namespace = "default"
)

// Search are the domains that the pod searches, and Ndots those dots that it takes for a name to be asked for as it is first.
var Search = []string{Namespace + ".svc." + Domain, "svc." + Domain, Domain}

// Ndots is the pods' default of Kubernetes.
const Ndots = 5

// instanceType is that of the smallest node.
const instanceType = "ecs.sim.large"

var config = fmt.Sprintf("dns:\n  upstreams: [%s]\n", UpstreamAddr)

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
`, ClusterDNS)

// A Lab is a node with an agent, and who asks. Close it in any case.
type Lab struct {
	Node     *agentnode.Node
	Client   *remote.Process // in the pod
	Beside   *remote.Process // on the node itself, which asks the upstream
	Upstream *remote.Process
	Pod      netip.Addr
	Agent    int // the agent's process

	bin     string
	runtime *podruntime.Runtime
}

// Start makes everything whose names on the machine begin with a prefix, of programs in bin.
func Start(ctx context.Context, prefix, bin string) (l *Lab, err error) {
	l = &Lab{bin: bin}
	l.Node, err = agentnode.Start(ctx, agentnode.Spec{
		Prefix: prefix, Bin: bin, InstanceType: instanceType, Config: config, Manifests: map[string]string{"cluster.yaml": manifests},
	})
	if err != nil {
		return l, err
	}
	if l.Upstream, err = l.connect(ctx, "the upstream", roleUpstream); err != nil {
		return l, err
	}
	if err := l.Upstream.Ask(ctx, verbListen, UpstreamAddr, nil); err != nil {
		return l, err
	}
	if l.Beside, err = l.connect(ctx, "a client on the node", roleClient); err != nil {
		return l, err
	}
	if err := l.addPod(ctx, "pod"); err != nil {
		return l, fmt.Errorf("add a pod: %w", err)
	}
	l.Agent, err = childOf(l.Node.Agent.PID())
	return l, err
}

// Close removes everything.
func (l *Lab) Close() error {
	var err error
	if l.runtime != nil {
		err = l.runtime.Close()
	}
	if l.Node == nil {
		return err
	}
	return errors.Join(err, l.Node.Close())
}

// connect starts this program on the node as something else.
func (l *Lab) connect(ctx context.Context, name, role string) (*remote.Process, error) {
	cmd := l.Node.Command(context.WithoutCancel(ctx), filepath.Join(l.bin, "bench"), role)
	cmd.Stderr = os.Stderr
	return remote.Connect(name, cmd, l.start)
}

func (l *Lab) start(cmd *exec.Cmd) error {
	_, err := l.Node.Lab.Start(cmd)
	return err
}

// addPod has the agent wire a pod as a container runtime would, and starts a client in it.
func (l *Lab) addPod(ctx context.Context, name string) error {
	cmd := l.Node.Command(context.WithoutCancel(ctx), filepath.Join(l.bin, "bench"), "runtime")
	cmd.Stderr = os.Stderr
	var err error
	if l.runtime, err = podruntime.Connect(cmd, l.start); err != nil {
		return err
	}
	if err := l.runtime.MakeNetNS(ctx, []string{name}); err != nil {
		return err
	}
	network, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "nearpath", "type": "nearpath-cni", "capabilities": map[string]bool{"dns": true},
		"runtimeConfig": map[string]any{"dns": map[string]any{
			"servers": []string{ClusterDNS.String()}, "searches": Search, "options": []string{fmt.Sprintf("ndots:%d", Ndots)},
		}},
	})
	if err != nil {
		return err
	}
	call := podruntime.Call{
		Program: filepath.Join(l.bin, "nearpath-cni"), Stdin: string(network),
		Env: []string{
			"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + name, "CNI_NETNS=" + podruntime.Path(name), "CNI_IFNAME=eth0",
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + Namespace + ";K8S_POD_NAME=" + name, "CNI_PATH=" + l.bin, "PATH=/usr/bin:/bin",
		},
	}
	took, err := l.runtime.Run(ctx, podruntime.Batch{Calls: []podruntime.Call{call}, AtATime: 1})
	if err != nil {
		return err
	}
	if l.Pod, err = addressIn(took.Outputs[0]); err != nil {
		return err
	}
	if l.Client, err = l.connect(ctx, "a client in the pod", roleClient); err != nil {
		return err
	}
	return errors.Join(l.Client.Ask(ctx, verbEnter, podruntime.Path(name), nil), l.Client.Ask(ctx, VerbPin, ClientCPU, nil))
}

// addressIn is the first address of what a CNI plugin printed.
func addressIn(result string) (netip.Addr, error) {
	var r struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		return netip.Addr{}, fmt.Errorf("read the plugin's result %q: %w", result, err)
	}
	if len(r.IPs) == 0 {
		return netip.Addr{}, fmt.Errorf("the plugin gave no address: %q", result)
	}
	return r.IPs[0].Address.Addr(), nil
}

// AnsweredByKernel is how many questions the kernel answered meanwhile.
func (l *Lab) AnsweredByKernel(ctx context.Context, meanwhile func() error) (uint64, error) {
	var before, after uint64
	if err := l.Beside.Ask(ctx, VerbHits, nil, &before); err != nil {
		return 0, err
	}
	if err := meanwhile(); err != nil {
		return 0, err
	}
	err := l.Beside.Ask(ctx, VerbHits, nil, &after)
	return after - before, err
}

// A Server is a program on the node.
type Server struct{ process *netlab.Process }

// PID is that of the program itself, which what entered the node waits for.
func (s *Server) PID() (int, error) { return childOf(s.process.PID()) }

// Stop ends it.
func (s *Server) Stop() { s.process.Kill() }

// starting is how long a server may take to be there: one that has to read a large cluster takes a while.
const starting = 2 * time.Minute

// Serve starts a program on the node and returns it once answers says nothing against it. What it prints is in the node's
// directory.
func (l *Lab) Serve(ctx context.Context, name string, answers func() error, program string, args ...string) (*Server, error) {
	log, err := os.Create(filepath.Join(l.Node.Dir(), name+".log"))
	if err != nil {
		return nil, err
	}
	cmd := l.Node.Command(context.WithoutCancel(ctx), program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	process, err := l.Node.Lab.Start(cmd)
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s := &Server{process}
	err = l.Node.AwaitWithin(ctx, starting, func() string {
		select {
		case <-process.Done():
			text, _ := os.ReadFile(log.Name()) //nolint:errcheck // it is for a message only
			return fmt.Sprintf("%s ended: %v: %s", name, process.Err(), text)
		default:
		}
		if err := answers(); err != nil {
			return name + ": " + err.Error()
		}
		return ""
	})
	return s, err
}

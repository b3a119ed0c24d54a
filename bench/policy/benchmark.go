// Package policy measures what NetworkPolicy costs: packets and connections beside the same rules in nftables, changes until the
// kernel enforces them, and memory.
package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/remote"
	"github.com/nearpath/nearpath/bench/site"
	"github.com/nearpath/nearpath/test/netlab"
)

// Benchmark is what NetworkPolicy costs.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "policy", What: "NetworkPolicy: packets, connections, changes and memory, beside nftables", Setup: setup}
}

// prefix begins the name of everything the benchmark makes on the machine.
const prefix = "nearpath-bench-policy"

// What this program can be executed as, elsewhere.
const (
	roleClient = "policy-client"
	roleNode   = "policy-node"
)

// Roles are what the program must be able to be.
func Roles() map[string]func(io.Reader, io.Writer) error {
	return map[string]func(io.Reader, io.Writer) error{roleClient: serveClient, roleNode: serveNode}
}

func setup(ctx context.Context, env measure.Env) (*measure.Bed, error) {
	lab, err := netlab.New(prefix)
	if err != nil {
		return nil, err
	}
	b, err := newBed(ctx, lab, env)
	if err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	return &measure.Bed{Series: b.all(), Close: lab.Close}, nil
}

// sizes are numbers of peers of the one policy that a pod has, and counts those of policies. 0: none.
var (
	sizes  = []int{0, 10, 1000, 10000}
	counts = []int{0, 10, 1000}
)

// all are the series.
func (b *bed) all() (list []measure.Series) {
	for _, peers := range sizes {
		list = append(list, b.packets(establishedPackets, peers))
	}
	for _, peers := range sizes {
		list = append(list, b.packets(firstPackets, peers))
	}
	for _, policies := range counts {
		list = append(list, b.connects(policies))
	}
	for _, kind := range changeKinds {
		list = append(list, b.changes(kind))
	}
	return append(list, b.fromNothing(), b.maps())
}

// A contender enforces policies on a site of its own. Another site has the same but no policy.
type contender struct {
	name          string
	role          measure.Role
	with, without *remote.Process // the pods
	enforcer      enforcer
	loaded        *scene // nil: nothing yet
}

// An enforcer has a node enforce policies.
type enforcer interface {
	load(context.Context, scene) error
	// forget lets the next packet of every connection be the first one.
	forget(context.Context) error
}

// load has the policies of a scene enforced, unless they are.
func (c *contender) load(ctx context.Context, s scene) error {
	if c.loaded != nil && *c.loaded == s {
		return nil
	}
	if err := c.enforcer.load(ctx, s); err != nil {
		return fmt.Errorf("load %+v: %w", s, err)
	}
	// What is dropped would be timed as well as what is not.
	if err := c.with.Ask(ctx, verbConnect, atOnce, nil); err != nil {
		return fmt.Errorf("connect with %+v loaded: %w", s, err)
	}
	c.loaded = &s
	return nil
}

// A bed is the contenders: nearpath's programs with policies and without, and nftables with policies and nothing.
type bed struct {
	path, nft *contender
	node      *remote.Process // nearpath's
	bin       string
	quick     bool
}

func newBed(ctx context.Context, lab *netlab.Lab, env measure.Env) (*bed, error) {
	b := &bed{bin: env.Bin, quick: env.Quick}
	on, with, err := newPath(ctx, lab, env, "nearpath", start{})
	if err != nil {
		return nil, err
	}
	_, without, err := newPath(ctx, lab, env, "without", start{Off: true})
	if err != nil {
		return nil, err
	}
	b.node = on
	b.path = &contender{name: "nearpath", role: measure.Subject, with: with, without: without, enforcer: pathSite{on}}
	nft, filtered, err := newSite(ctx, lab, env, "nftables")
	if err != nil {
		return nil, err
	}
	_, plain, err := newSite(ctx, lab, env, "plain")
	if err != nil {
		return nil, err
	}
	b.nft = &contender{name: "nftables", role: measure.Peer, with: filtered, without: plain, enforcer: nftSite{nft.Node}}
	return b, nil
}

// newSite is one with a pod.
func newSite(ctx context.Context, lab *netlab.Lab, env measure.Env, name string) (*site.Site, *remote.Process, error) {
	s, err := site.New(ctx, lab, name, env.Bin, plan)
	if err != nil {
		return nil, nil, err
	}
	pod, err := s.ConnectClient(ctx, roleClient, site.Bare)
	return s, pod, err
}

// newPath is one whose pod is behind nearpath's programs.
func newPath(ctx context.Context, lab *netlab.Lab, env measure.Env, name string, how start) (node, pod *remote.Process, err error) {
	s, pod, err := newSite(ctx, lab, env, name)
	if err != nil {
		return nil, nil, err
	}
	if node, err = s.ConnectNode(ctx, name+"'s node", filepath.Join(env.Bin, "bench"), roleNode); err != nil {
		return nil, nil, err
	}
	return node, pod, node.Ask(ctx, verbStart, how, nil)
}

// rounds is how many there are: the first number, or the second one in a quick run.
func (b *bed) rounds(all, quick int) int {
	if b.quick {
		return quick
	}
	return all
}

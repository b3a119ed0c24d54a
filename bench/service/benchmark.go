// Package service measures what Services cost: connections through a cluster IP beside direct ones and beside kube-proxy's, how
// long a change takes to be seen, and what the state costs in memory.
package service

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

// Benchmark is what Services cost.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "service", What: "Services: connections, changes and memory, beside kube-proxy", Setup: setup}
}

// prefix begins the name of everything the benchmark makes on the machine.
const prefix = "nearpath-bench-service"

// What this program can be executed as, elsewhere.
const (
	roleClient = "service-client"
	roleNode   = "service-node"
)

// Roles are what the program must be able to be.
func Roles() map[string]func(io.Reader, io.Writer) error {
	return map[string]func(io.Reader, io.Writer) error{roleClient: serveClient, roleNode: serveNode}
}

// sizes are numbers of Services.
var sizes = []int{10, 1000, 10000}

// Sizes of clusters. Peers get no more than one endpoint for each Service: with ten kube-proxy's first sync takes minutes. Only its
// chains of Services lengthen the way of a connection, and they are as long.
var (
	middling = size{1000, 1} // where the number of Services does not matter
	large    = size{10000, 10}
)

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

// all are the series.
func (b *bed) all() (list []measure.Series) {
	for _, n := range sizes {
		list = append(list, b.connects(n), b.flips(size{n, 1}))
	}
	list = append(list, b.open(), b.stream(), b.tax(), b.flips(large))
	for _, n := range sizes {
		list = append(list, b.syncs(size{n, 1}))
	}
	return append(list, b.syncs(large), b.memory(), b.resident())
}

// A contender serves Services on a site of its own.
type contender struct {
	name   string
	role   measure.Role
	node   serving
	client *remote.Process
	loaded size // 0: nothing yet
}

// serving is a node's Service datapath, with what keeps it equal to a cluster.
type serving interface {
	// load makes it serve Services and no others.
	load(ctx context.Context, n size) error
	// flip replaces the endpoint of the Service that flips, so many times, and tells how many milliseconds each took.
	flip(ctx context.Context, times int) ([]float64, error)
	// sync serves Services from nothing, and tells how many milliseconds that took.
	sync(ctx context.Context, n size) (float64, error)
}

// load makes the contender serve Services, unless it does.
func (c *contender) load(ctx context.Context, n size) error {
	if c.loaded == n {
		return nil
	}
	if err := c.node.load(ctx, n); err != nil {
		return err
	}
	c.loaded = n
	return nil
}

// A bed is the contenders. The floor is a client on nearpath's site that the hooks do not reach: the same links, and no
// Service between them.
type bed struct {
	floor      *remote.Process
	path       *contender
	own        *pathSite    // path's node
	contenders []*contender // nearpath's is the first
	bin        string
	quick      bool
}

// newSite is one whose server has the endpoints that answer.
func newSite(ctx context.Context, lab *netlab.Lab, name string, env measure.Env) (*site.Site, error) {
	return site.New(ctx, lab, name, env.Bin, site.Plan{Served: served(), Beyond: serverAddrs, Virtual: clusterIPs})
}

func newBed(ctx context.Context, lab *netlab.Lab, env measure.Env) (*bed, error) {
	b := &bed{bin: env.Bin, quick: env.Quick}
	s, err := newSite(ctx, lab, "nearpath", env)
	if err != nil {
		return nil, err
	}
	b.path = &contender{name: "nearpath", role: measure.Subject}
	node, err := s.ConnectNode(ctx, "nearpath's node", filepath.Join(env.Bin, "bench"), roleNode)
	if err != nil {
		return nil, err
	}
	b.own = &pathSite{node}
	b.path.node = b.own
	if b.path.client, err = s.ConnectClient(ctx, roleClient, site.Hooked); err != nil {
		return nil, err
	}
	if b.floor, err = s.ConnectClient(ctx, roleClient, site.Bare); err != nil {
		return nil, err
	}
	b.contenders = []*contender{b.path}
	for _, mode := range []string{"nftables", "iptables"} {
		c, err := newKubeProxy(ctx, lab, env, mode)
		if err != nil {
			return nil, fmt.Errorf("kube-proxy, %s: %w", mode, err)
		}
		b.contenders = append(b.contenders, c)
	}
	return b, nil
}

// rounds is how many there are: the first number, or the second one in a quick run.
func (b *bed) rounds(all, quick int) int {
	if b.quick {
		return quick
	}
	return all
}

// withFloor are the cases of all contenders, and of connections without a Service.
func (b *bed) withFloor(one func(context.Context, *contender) (measure.Samples, error), direct func(context.Context) (measure.Samples, error)) []measure.Case {
	return append(cases(b.contenders, one), measure.Case{Name: "direct", Role: measure.Floor, Round: direct})
}

// able are those that can have a cluster of a size.
func (b *bed) able(n size) []*contender {
	if n == large {
		return b.contenders[:1]
	}
	return b.contenders
}

// cases are those of contenders.
func cases(of []*contender, one func(context.Context, *contender) (measure.Samples, error)) (out []measure.Case) {
	for _, c := range of {
		out = append(out, measure.Case{Name: c.name, Role: c.role, Round: func(ctx context.Context) (measure.Samples, error) { return one(ctx, c) }})
	}
	return out
}

// Package dns measures what a pod waits for when it asks for names, what that costs the node, and what names take in memory,
// beside caches that nodes have without nearpath.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/measure"
)

// Benchmark is what names cost.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "dns", What: "DNS as a pod sees it, beside unbound, CoreDNS and an echo server", Setup: setup}
}

// prefix begins the name of everything the benchmark makes on the machine.
const prefix = "nearpath-bench-dns"

// hot is a name that everybody has the answer of.
const hot = "www.hot.example"

// patience is for one answer of a server that may not be there yet.
const patience = 200 * time.Millisecond

// A bed is a node with an agent, a pod whose clients ask, and all who answer.
type bed struct {
	*dnslab.Lab
	peers      string
	quick      bool
	ours       *contender
	contenders []*contender // ours is the first, the floors are the last
	cold       int          // names that nobody has asked for begin with numbers from here
}

func setup(ctx context.Context, env measure.Env) (*measure.Bed, error) {
	b := &bed{peers: env.Peers, quick: env.Quick}
	if err := b.build(ctx, env.Bin); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &measure.Bed{Series: b.all(), Close: b.Close}, nil
}

func (b *bed) build(ctx context.Context, bin string) (err error) {
	if b.Lab, err = dnslab.Start(ctx, prefix, bin); err != nil {
		return err
	}
	b.ours = &contender{name: "nearpath", role: measure.Subject, server: netip.AddrPortFrom(dnslab.ClusterDNS, 53), pid: b.Agent}
	b.contenders = []*contender{b.ours}
	if err := b.startPeers(ctx); err != nil {
		return err
	}
	if err := b.placeUpstream(ctx); err != nil {
		return err
	}
	return b.warm(ctx, hot)
}

// placeUpstream has replies of the upstream come from another processor than the one they are awaited on, as those of another
// machine do, whoever asks.
func (b *bed) placeUpstream(ctx context.Context) error {
	return errors.Join(b.Upstream.Ask(ctx, dnslab.VerbPin, dnslab.ClientCPU, nil), b.Beside.Ask(ctx, dnslab.VerbPin, dnslab.OtherCPU, nil))
}

// warm asks for a name until the kernel answers.
func (b *bed) warm(ctx context.Context, name string) error {
	return b.Node.Await(ctx, func() string {
		by, err := b.AnsweredByKernel(ctx, func() error {
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

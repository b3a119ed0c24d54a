package service

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/remote"
)

// turns is how often what is compared within one round takes turns: the machine's moods last longer than one of them.
const turns = 8

// direct are the endpoints themselves.
func direct() (targets []netip.AddrPort) {
	for _, a := range served() {
		targets = append(targets, at(a))
	}
	return targets
}

func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return s[len(s)/2]
}

// connects times connect() at a number of Services. A round alternates between the Service and the endpoints themselves,
// which an unhooked client of nearpath's site connects to.
func (b *bed) connects(services int) measure.Series {
	s := measure.Series{
		Name: fmt.Sprintf("connect, %d Services", services), Scale: size{services, 1}.scale("connect()"), Rounds: b.rounds(40, 8), Unmeasured: 1,
		What: "TCP connect() to the Service in the middle, which has ten endpoints; \"above direct\" is what it takes longer than to an endpoint's own address, by medians of one round",
		Metrics: []measure.Metric{
			{Name: "connect", What: "connect()", Unit: "us"},
			{Name: "above direct", What: "above direct", Unit: "us"},
		},
	}
	one := func(ctx context.Context, c *contender) (measure.Samples, error) {
		if err := c.load(ctx, size{services, 1}); err != nil {
			return nil, err
		}
		through, without, err := b.alternate(ctx, verbConnect, c.client, []netip.AddrPort{at(vip(target(services)))}, direct())
		if err != nil {
			return nil, err
		}
		return measure.Samples{
			"connect": micros(through.Connect), "above direct": {(median(through.Connect) - median(without.Connect)) / 1000},
		}, nil
	}
	s.Cases = b.withFloor(one, func(ctx context.Context) (measure.Samples, error) {
		var t dialled
		err := b.floor.Ask(ctx, verbConnect, dial{direct(), turns * dialsPerTurn}, &t)
		return measure.Samples{"connect": micros(t.Connect)}, err
	})
	return s
}

const dialsPerTurn = 100

// alternate has a client and the floor's dial by turns.
func (b *bed) alternate(ctx context.Context, verb string, client *remote.Process, through, without []netip.AddrPort) (t, floor dialled, err error) {
	for range turns {
		for _, leg := range []struct {
			of      *remote.Process
			targets []netip.AddrPort
			to      *dialled
		}{{client, through, &t}, {b.floor, without, &floor}} {
			var part dialled
			if err := leg.of.Ask(ctx, verb, dial{leg.targets, dialsPerTurn}, &part); err != nil {
				return t, floor, err
			}
			leg.to.Connect, leg.to.Close = append(leg.to.Connect, part.Connect...), append(leg.to.Close, part.Close...)
		}
	}
	return t, floor, nil
}

func micros(nanos []float64) []float64 {
	out := make([]float64, len(nanos))
	for i, n := range nanos {
		out[i] = n / 1000
	}
	return out
}

// open times request and response on a connection that is open already.
func (b *bed) open() measure.Series {
	s := measure.Series{
		Name: "request and response", Rounds: b.rounds(60, 10), Unmeasured: 1,
		What: fmt.Sprintf("one byte there and one back on an open connection, %d Services; \"of direct\" compares medians of one round", middling.Services),
		Metrics: []measure.Metric{
			{Name: "latency", What: "there and back", Unit: "us"},
			{Name: "of direct", What: "rate, of direct", Unit: "%", HigherIsBetter: true},
		},
	}
	const times = 250
	ask := func(ctx context.Context, p *remote.Process, to netip.AddrPort) (t []float64, err error) {
		err = p.Ask(ctx, verbRoundTrip, exchange{to, times}, &t)
		return t, err
	}
	one := func(ctx context.Context, c *contender) (measure.Samples, error) {
		if err := c.load(ctx, middling); err != nil {
			return nil, err
		}
		through, without, err := byTurns(ctx, ask, c.client, b.floor, at(vip(target(middling.Services))))
		if err != nil {
			return nil, err
		}
		return measure.Samples{"latency": micros(through), "of direct": {100 * median(without) / median(through)}}, nil
	}
	s.Cases = b.withFloor(one, func(ctx context.Context) (measure.Samples, error) {
		t, err := ask(ctx, b.floor, direct()[0])
		return measure.Samples{"latency": micros(t)}, err
	})
	return s
}

// byTurns has a client do something through a Service, and the floor the same with an endpoint.
func byTurns(ctx context.Context, do func(context.Context, *remote.Process, netip.AddrPort) ([]float64, error), client, floor *remote.Process, service netip.AddrPort) (through, without []float64, err error) {
	for range turns {
		a, err := do(ctx, client, service)
		if err != nil {
			return nil, nil, err
		}
		b, err := do(ctx, floor, direct()[0])
		if err != nil {
			return nil, nil, err
		}
		through, without = append(through, a...), append(without, b...)
	}
	return through, without, nil
}

// stream measures what one connection carries.
func (b *bed) stream() measure.Series {
	s := measure.Series{
		Name: "throughput", Rounds: b.rounds(30, 6), Unmeasured: 1,
		What: fmt.Sprintf("one TCP stream, %d Services; \"of direct\" compares medians of one round", middling.Services),
		Metrics: []measure.Metric{
			{Name: "rate", What: "received", Unit: "Gbit/s", HigherIsBetter: true},
			{Name: "of direct", What: "of direct", Unit: "%", HigherIsBetter: true},
		},
	}
	ask := func(ctx context.Context, p *remote.Process, to netip.AddrPort) ([]float64, error) {
		var rate float64
		err := p.Ask(ctx, verbStream, flow{to, 60 * time.Millisecond}, &rate)
		return []float64{8 * rate / 1e9}, err
	}
	one := func(ctx context.Context, c *contender) (measure.Samples, error) {
		if err := c.load(ctx, middling); err != nil {
			return nil, err
		}
		through, without, err := byTurns(ctx, ask, c.client, b.floor, at(vip(target(middling.Services))))
		if err != nil {
			return nil, err
		}
		return measure.Samples{"rate": through, "of direct": {100 * median(through) / median(without)}}, nil
	}
	s.Cases = b.withFloor(one, func(ctx context.Context) (measure.Samples, error) {
		var rates []float64
		for range turns {
			rate, err := ask(ctx, b.floor, direct()[0])
			if err != nil {
				return nil, err
			}
			rates = append(rates, rate...)
		}
		return measure.Samples{"rate": rates}, nil
	})
	return s
}

// nowhere is an address that no route of a client leads to.
var nowhere = netip.MustParseAddrPort("203.0.113.1:8080")

// tax measures what sockets pay that have nothing to do with Services.
func (b *bed) tax() measure.Series {
	s := measure.Series{
		Name: "not a Service", Rounds: b.rounds(40, 8), Unmeasured: 1,
		What: "TCP connect() that no route leads to, and close() of the socket: the work around the packets; \"added\" is to an unhooked client's, by medians of one round",
		Metrics: []measure.Metric{
			{Name: "connect", What: "connect()", Unit: "ns"},
			{Name: "connect added", What: "added to connect()", Unit: "ns"},
			{Name: "close", What: "close()", Unit: "ns"},
			{Name: "close added", What: "added to close()", Unit: "ns"},
		},
	}
	one := func(ctx context.Context) (measure.Samples, error) {
		if err := b.path.load(ctx, middling); err != nil {
			return nil, err
		}
		with, without, err := b.alternate(ctx, verbHook, b.path.client, []netip.AddrPort{nowhere}, []netip.AddrPort{nowhere})
		if err != nil {
			return nil, err
		}
		return measure.Samples{
			"connect": with.Connect, "connect added": {median(with.Connect) - median(without.Connect)},
			"close": with.Close, "close added": {median(with.Close) - median(without.Close)},
		}, nil
	}
	s.Cases = []measure.Case{
		{Name: b.path.name, Role: b.path.role, Round: one},
		{Name: "no hooks", Role: measure.Floor, Round: func(ctx context.Context) (measure.Samples, error) {
			var t dialled
			err := b.floor.Ask(ctx, verbHook, dial{[]netip.AddrPort{nowhere}, turns * dialsPerTurn}, &t)
			return measure.Samples{"connect": t.Connect, "close": t.Close}, err
		}},
	}
	return s
}

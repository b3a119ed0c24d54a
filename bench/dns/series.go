package dns

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/measure"
)

// turns is how often what is compared within one round takes turns: the machine's moods last longer than one of them.
const turns = 8

func (b *bed) all() []measure.Series {
	return []measure.Series{
		b.hits("hits, other processor", dnslab.OtherCPU), b.hits("hits, same processor", dnslab.ClientCPU), b.work(), b.misses(), b.together(), b.memory(),
	}
}

func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return s[len(s)/2]
}

func micros(nanos []float64) []float64 {
	out := make([]float64, len(nanos))
	for i, n := range nanos {
		out[i] = n / 1000
	}
	return out
}

// cases are those of contenders, of the floors those that are named.
func (b *bed) cases(one func(context.Context, *contender) (measure.Samples, error), floors ...string) (out []measure.Case) {
	for _, c := range b.contenders {
		if c.role != measure.Floor || slices.Contains(floors, c.name) {
			out = append(out, measure.Case{Name: c.name, Role: c.role, Round: func(ctx context.Context) (measure.Samples, error) { return one(ctx, c) }})
		}
	}
	return out
}

// pinAll keeps everybody who answers on a processor.
func (b *bed) pinAll(cpu int) error {
	for _, c := range b.contenders {
		if err := dnslab.Pin(c.pid, cpu); err != nil {
			return err
		}
	}
	return nil
}

// ask has the pod ask a contender for names, one after another.
func (b *bed) ask(ctx context.Context, c *contender, names []string, times int) (nanos []float64, err error) {
	err = b.Client.Ask(ctx, dnslab.VerbLoop, dnslab.Loop{Server: c.server, Names: names, Times: times}, &nanos)
	return nanos, err
}

// hits times answers that are at hand.
func (b *bed) hits(name string, cpu int) measure.Series {
	s := measure.Series{
		Name: name, Rounds: b.rounds(40, 24), Unmeasured: 4,
		What: "a pod asks for one name that everybody has the answer of, over one socket, one question at a time; \"of ...\" compare medians of one round, in which they take turns",
		Metrics: []measure.Metric{
			{Name: "latency", What: "from sendto() to the answer", Unit: "us"},
			{Name: "of echo", What: "of the echo server's", Unit: "x"},
			{Name: "of CoreDNS", What: "of CoreDNS's", Unit: "x"},
		},
	}
	const each = 100
	one := func(ctx context.Context, c *contender) (measure.Samples, error) {
		if err := b.pinAll(cpu); err != nil {
			return nil, err
		}
		if c != b.ours {
			nanos, err := b.ask(ctx, c, []string{hot}, turns*each)
			return measure.Samples{"latency": micros(nanos)}, err
		}
		var took [][]float64
		by, err := b.AnsweredByKernel(ctx, func() (err error) {
			took, err = b.byTurns(ctx, []*contender{c, b.by(nameEcho), b.by(nameCoreDNS)}, func(c *contender) ([]float64, error) {
				return b.ask(ctx, c, []string{hot}, each)
			})
			return err
		})
		if err == nil && by < turns*each*99/100 { // whatever p50 and p99 are, they are the kernel's
			err = fmt.Errorf("the kernel answered %d of %d questions", by, turns*each)
		}
		if err != nil {
			return nil, err
		}
		ours := median(took[0])
		return measure.Samples{"latency": micros(took[0]), "of echo": {ours / median(took[1])}, "of CoreDNS": {ours / median(took[2])}}, nil
	}
	s.Cases = b.cases(one, nameEcho)
	return s
}

// byTurns has contenders do something by turns, and returns all the figures of each.
func (b *bed) byTurns(ctx context.Context, of []*contender, do func(*contender) ([]float64, error)) ([][]float64, error) {
	took := make([][]float64, len(of))
	for range turns {
		for i, c := range of {
			part, err := do(c)
			if err != nil {
				return nil, err
			}
			took[i] = append(took[i], part...)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
	}
	return took, nil
}

// work measures answers for a second of processor time.
func (b *bed) work() measure.Series {
	s := measure.Series{
		Name: "work", Rounds: b.rounds(12, 3), Unmeasured: 1,
		What: "a pod asks for that name with 16 questions under way; what counts is all the time that the machine's processors were not idle, the client's included",
		Metrics: []measure.Metric{
			{Name: "rate", What: "answers in a second of all processors' time", Unit: "/s", HigherIsBetter: true},
			{Name: "of unbound", What: "of unbound's", Unit: "x", HigherIsBetter: true},
			{Name: "of CoreDNS", What: "of CoreDNS's", Unit: "x", HigherIsBetter: true},
		},
	}
	answers := func(ctx context.Context, c *contender) (float64, error) {
		before, err := dnslab.BusySeconds()
		if err != nil {
			return 0, err
		}
		var answered int
		if err := b.Client.Ask(ctx, dnslab.VerbRate, dnslab.Rate{Server: c.server, Name: hot, Window: 16, For: time.Second}, &answered); err != nil {
			return 0, err
		}
		after, err := dnslab.BusySeconds()
		return float64(answered) / (after - before), err
	}
	s.Cases = b.cases(func(ctx context.Context, c *contender) (measure.Samples, error) {
		if err := b.pinAll(dnslab.OtherCPU); err != nil {
			return nil, err
		}
		rate, err := answers(ctx, c)
		if err != nil || c != b.ours {
			return measure.Samples{"rate": {rate}}, err
		}
		unbound, err := answers(ctx, b.by(nameUnbound))
		if err != nil {
			return nil, err
		}
		coreDNS, err := answers(ctx, b.by(nameCoreDNS))
		return measure.Samples{"rate": {rate}, "of unbound": {rate / unbound}, "of CoreDNS": {rate / coreDNS}}, err
	}, nameEcho)
	return s
}

// misses times what the upstream must be asked for.
func (b *bed) misses() measure.Series {
	s := measure.Series{
		Name: "misses", Rounds: b.rounds(60, 30), Unmeasured: 4,
		What: "a pod asks for names that nobody has asked for; \"above the upstream\" is what that takes longer than when a process of the node asks the upstream itself, by medians of one round",
		Metrics: []measure.Metric{
			{Name: "latency", What: "from sendto() to the answer", Unit: "us"},
			{Name: "above", What: "above the upstream", Unit: "us"},
		},
	}
	const each = 25
	s.Cases = b.cases(func(ctx context.Context, c *contender) (measure.Samples, error) {
		if err := b.pinAll(dnslab.OtherCPU); err != nil {
			return nil, err
		}
		var through, direct []float64
		for range turns {
			part, err := b.ask(ctx, c, b.fresh(each), each)
			if err != nil {
				return nil, err
			}
			var bare []float64
			if err := b.Beside.Ask(ctx, dnslab.VerbLoop, dnslab.Loop{Server: dnslab.UpstreamAddr, Names: b.fresh(each), Times: each}, &bare); err != nil {
				return nil, err
			}
			through, direct = append(through, part...), append(direct, bare...)
		}
		return measure.Samples{"latency": micros(through), "above": {(median(through) - median(direct)) / 1000}}, nil
	}, nameRelay, nameRelayGo)
	return s
}

// together counts what an upstream is asked when many ask for the same.
func (b *bed) together() measure.Series {
	const sockets = 1000
	s := measure.Series{
		Name: "identical misses", Rounds: b.rounds(10, 2),
		What: fmt.Sprintf("%d sockets of a pod ask for the same name at once, which nobody has asked for before; who has no answer after a second asks again", sockets),
		Metrics: []measure.Metric{
			{Name: "upstream", What: "questions to the upstream", Unit: ""},
			{Name: "answered", What: "sockets that got an answer", Unit: "", HigherIsBetter: true},
		},
	}
	s.Cases = b.cases(func(ctx context.Context, c *contender) (measure.Samples, error) {
		name := b.fresh(1)[0]
		var answered, asked int
		if err := b.Client.Ask(ctx, dnslab.VerbBurst, dnslab.Burst{Server: c.server, Name: name, Sockets: sockets}, &answered); err != nil {
			return nil, err
		}
		err := b.Upstream.Ask(ctx, dnslab.VerbAsked, name, &asked)
		return measure.Samples{"upstream": {float64(asked)}, "answered": {float64(answered)}}, err
	})
	return s
}

// answerMaps hold what the kernel answers.
var answerMaps = []string{"dns_answers", "dns_large"}

// memory measures what ten thousand names take.
func (b *bed) memory() measure.Series {
	const names = 10_000
	s := measure.Series{
		Name: "memory", Rounds: 1,
		What: fmt.Sprintf("what %d names more take, each asked for twice, so that it is worth keeping: resident pages (VmRSS) of who answers, and the kernel's maps", names),
		Metrics: []measure.Metric{
			{Name: "added", What: "resident, added", Unit: "MiB"},
			{Name: "resident", What: "resident, afterwards", Unit: "MiB"},
			{Name: "kernel", What: "maps in the kernel, added", Unit: "MiB"},
		},
	}
	const mebi = 1 << 20
	s.Cases = b.cases(func(ctx context.Context, c *contender) (measure.Samples, error) {
		kernel := func() (bytes float64, err error) {
			err = b.Beside.Ask(ctx, dnslab.VerbMaps, answerMaps, &bytes)
			return bytes, err
		}
		before, _, err := measure.MemoryMiB(c.pid)
		if err != nil {
			return nil, err
		}
		maps, err := kernel()
		if err != nil {
			return nil, err
		}
		for more := range slices.Chunk(b.fresh(names), 500) {
			if _, err := b.ask(ctx, c, more, 2*len(more)); err != nil {
				return nil, err
			}
		}
		after, _, err := measure.MemoryMiB(c.pid)
		if err != nil || c != b.ours {
			return measure.Samples{"added": {after - before}, "resident": {after}}, err
		}
		then, err := kernel()
		return measure.Samples{"added": {after - before}, "resident": {after}, "kernel": {(then - maps) / mebi}}, err
	})
	return s
}

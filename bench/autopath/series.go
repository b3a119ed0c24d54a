package autopath

import (
	"context"
	"fmt"
	"time"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/measure"
)

// hot is a name that everybody has the answer of.
const hot = "www.hot.example"

func (b *bed) all() []measure.Series {
	return []measure.Series{
		b.work("node", nameNode), b.work("central", nameCentral), b.workFresh("node, other names", nameNode), b.workFresh("central, other names", nameCentral), b.memory(),
	}
}

// What lookups are compared by.
func metrics() []measure.Metric {
	return []measure.Metric{
		{Name: "rate", What: "lookups in a second of all processors' time", Unit: "/s", HigherIsBetter: true},
		{Name: "questions", What: "questions of a lookup", Unit: ""},
		{Name: "of autopath", What: "of CoreDNS's with its autopath", Unit: "x", HigherIsBetter: true},
		{Name: "of plain", What: "of CoreDNS's without", Unit: "x", HigherIsBetter: true},
	}
}

const how = "a pod whose search has three domains, and ndots 5, looks up %s outside the cluster, both address types, one lookup at a time; what counts is all the time that the machine's processors were not idle, the client's included; \"of ...\" compare one round, in which they take turns"

// work measures lookups of one name.
func (b *bed) work(name, subject string) measure.Series {
	return b.compare(name, fmt.Sprintf(how, "one name"), subject, func(ctx context.Context, c *contender) (float64, error) {
		if c.name != nameNode {
			return b.rate(ctx, c, dnslab.Searches{Names: []string{hot}, For: time.Second})
		}
		if err := b.warm(ctx); err != nil {
			return 0, err
		}
		var rate float64
		by, err := b.AnsweredByKernel(ctx, func() (err error) {
			rate, err = b.rate(ctx, c, dnslab.Searches{Names: []string{hot}, For: time.Second})
			return err
		})
		if err == nil && by < searched*100 {
			err = fmt.Errorf("the kernel answered %d questions in a second", by)
		}
		return rate, err
	})
}

// workFresh measures lookups of names that nobody has asked for.
func (b *bed) workFresh(name, subject string) measure.Series {
	const names = 2000
	return b.compare(name, fmt.Sprintf(how, fmt.Sprintf("%d names that nobody has asked for", names)), subject, func(ctx context.Context, c *contender) (float64, error) {
		return b.rate(ctx, c, dnslab.Searches{Names: b.fresh(names), Times: names})
	})
}

// rate is lookups in a second of all processors' time.
func (b *bed) rate(ctx context.Context, c *contender, s dnslab.Searches) (float64, error) {
	before, err := dnslab.BusySeconds()
	if err != nil {
		return 0, err
	}
	done, err := b.lookUp(ctx, c, s)
	if err != nil {
		return 0, err
	}
	after, err := dnslab.BusySeconds()
	return float64(done.Lookups) / (after - before), err
}

// compare has a subject beside the stock CoreDNS, with and without its autopath.
func (b *bed) compare(name, what, subject string, rate func(context.Context, *contender) (float64, error)) measure.Series {
	s := measure.Series{Name: name, What: what, Rounds: b.rounds(12, 3), Unmeasured: 1, Metrics: metrics()}
	for _, of := range []struct {
		name string
		role measure.Role
	}{{subject, measure.Subject}, {nameStock, measure.Peer}, {namePlain, measure.Peer}} {
		s.Cases = append(s.Cases, measure.Case{Name: of.name, Role: of.role, Round: func(ctx context.Context) (measure.Samples, error) {
			c := b.contenders[of.name]
			if err := dnslab.Pin(c.pid, dnslab.OtherCPU); err != nil {
				return nil, err
			}
			own, err := rate(ctx, c)
			samples := measure.Samples{"rate": {own}, "questions": {float64(c.questions)}}
			if err != nil || of.role != measure.Subject {
				return samples, err
			}
			for metric, peer := range map[string]string{"of autopath": nameStock, "of plain": namePlain} {
				other, err := rate(ctx, b.contenders[peer])
				if err != nil {
					return nil, err
				}
				samples[metric] = []float64{own / other}
			}
			return samples, nil
		}})
	}
	return s
}

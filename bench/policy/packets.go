package policy

import (
	"context"
	"fmt"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/remote"
)

const (
	// turns is how often a pod with policies and one without take turns in a round.
	turns = 10
	// sendsPerTurn and connectsPerTurn are what is done in one of them.
	sendsPerTurn    = 200
	connectsPerTurn = 50
)

// A packetKind says which packets of connections are timed.
type packetKind string

const (
	establishedPackets packetKind = "established packet"
	firstPackets       packetKind = "first packet"
)

// packets times datagrams from the pod to where they are dropped.
func (b *bed) packets(kind packetKind, peers int) measure.Series {
	policies := scene{Policies: 1, Peers: peers}
	what := fmt.Sprintf("with a policy of %d peers", peers)
	if peers == 0 {
		policies, what = scene{}, "with no policy about the pod"
	}
	s := measure.Series{
		Name: fmt.Sprintf("%s, %d peers", kind, peers), Scale: measure.Scale{Of: "peers, " + string(kind), Size: float64(peers)}, Rounds: b.rounds(60, 12), Unmeasured: 1,
		What: fmt.Sprintf("a datagram from a pod %s, processor time from sendto() to its end behind the node; \"policy\" is what it takes longer than on a site without policy, by medians of one round", what),
		Metrics: []measure.Metric{
			{Name: "packet", What: "a packet", Unit: "ns"},
			{Name: "policy", What: "policy's part", Unit: "ns"},
		},
	}
	return b.compare(s, policies, func(ctx context.Context, pods []*remote.Process) ([][]float64, error) {
		return b.sends(ctx, kind, pods)
	}, func(with, without []float64) measure.Samples {
		return measure.Samples{"packet": with, "policy": {median(with) - median(without)}}
	})
}

// sends has pods send by turns. All send the same.
func (b *bed) sends(ctx context.Context, kind packetKind, pods []*remote.Process) ([][]float64, error) {
	const first = 10000
	took := make([][]float64, len(pods))
	for turn := range turns {
		s := sending{Port: first, Times: sendsPerTurn}
		if kind == firstPackets {
			s.Move, s.Port = true, uint16(first+turn*sendsPerTurn)
		}
		for i, pod := range pods {
			var part []float64
			if err := pod.Ask(ctx, verbSend, s, &part); err != nil {
				return nil, err
			}
			took[i] = append(took[i], part...)
		}
	}
	return took, nil
}

// connects counts connections.
func (b *bed) connects(policies int) measure.Series {
	s := measure.Series{
		Name: fmt.Sprintf("connections, %d policies", policies), Scale: measure.Scale{Of: "policies, connections", Size: float64(policies)}, Rounds: b.rounds(40, 10), Unmeasured: 1,
		What: fmt.Sprintf("TCP connections from a pod for each second of its processor time, closed by a reset; %d policies of ten peers on the node, ten of them, or all, about the pod", policies),
		Metrics: []measure.Metric{
			{Name: "rate", What: "connections", Unit: "/s", HigherIsBetter: true},
			{Name: "of direct", What: "of those without policy", Unit: "%", HigherIsBetter: true},
		},
	}
	return b.compare(s, scene{Policies: policies, Peers: 10}, func(ctx context.Context, pods []*remote.Process) ([][]float64, error) {
		took := make([][]float64, len(pods))
		for range turns {
			for i, pod := range pods {
				var part []float64
				if err := pod.Ask(ctx, verbConnect, connectsPerTurn, &part); err != nil {
					return nil, err
				}
				took[i] = append(took[i], part...)
			}
		}
		return took, nil
	}, func(with, without []float64) measure.Samples {
		rates := make([]float64, len(with))
		for i, t := range with {
			rates[i] = 1e9 / t
		}
		return measure.Samples{"rate": rates, "of direct": {100 * median(without) / median(with)}}
	})
}

// compare has each contender do something on its site and on the one without policy. The floor is a site with nothing at all.
func (b *bed) compare(s measure.Series, policies scene, do func(context.Context, []*remote.Process) ([][]float64, error), figures func(with, without []float64) measure.Samples) measure.Series {
	for _, c := range []*contender{b.path, b.nft} {
		s.Cases = append(s.Cases, measure.Case{Name: c.name, Role: c.role, Round: func(ctx context.Context) (measure.Samples, error) {
			if err := c.load(ctx, policies); err != nil {
				return nil, err
			}
			if err := c.enforcer.forget(ctx); err != nil {
				return nil, fmt.Errorf("forget connections: %w", err)
			}
			took, err := do(ctx, []*remote.Process{c.with, c.without})
			if err != nil {
				return nil, err
			}
			return figures(took[0], took[1]), nil
		}})
	}
	s.Cases = append(s.Cases, measure.Case{Name: "no policy", Role: measure.Floor, Round: func(ctx context.Context) (measure.Samples, error) {
		took, err := do(ctx, []*remote.Process{b.nft.without})
		if err != nil {
			return nil, err
		}
		samples := figures(took[0], took[0])
		return measure.Samples{s.Metrics[0].Name: samples[s.Metrics[0].Name]}, nil
	}})
	return s
}

func median(samples []float64) float64 { return measure.Metric{}.Summarize(samples).P50 }

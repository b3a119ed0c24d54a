package autopath

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/measure"
)

const (
	// largePods are those of a large cluster.
	largePods = 100_000
	// settle is how long a server is left alone before its size counts: what it read is garbage then.
	settle = 30 * time.Second
)

// A size is a server's in MiB, with one pod and with all.
type size struct{ one, all, peak float64 }

// memory measures central servers that know all pods, or need not.
func (b *bed) memory() measure.Series {
	s := measure.Series{
		Name: "memory", Rounds: 1,
		What: fmt.Sprintf("what %d pods of the cluster take of a central server, as the kernel counts its pages, %s after it has them (VmRSS), and at its largest (VmHWM); without autopath it has none", largePods, settle),
		Metrics: []measure.Metric{
			{Name: "resident", What: "resident", Unit: "MiB"},
			{Name: "one", What: "resident, with one pod", Unit: "MiB"},
			{Name: "peak", What: "at its largest", Unit: "MiB"},
			{Name: "of autopath", What: "resident, of CoreDNS's with its autopath", Unit: "x"},
		},
	}
	for _, p := range programs() {
		s.Cases = append(s.Cases, measure.Case{Name: p.name, Role: p.role, Round: func(ctx context.Context) (measure.Samples, error) { return b.remember(ctx, p) }})
	}
	return s
}

func (b *bed) remember(ctx context.Context, p program) (measure.Samples, error) {
	own, err := b.sizeOf(ctx, p)
	samples := measure.Samples{"resident": {own.all}, "one": {own.one}, "peak": {own.peak}}
	if err != nil || p.role != measure.Subject {
		return samples, err
	}
	stock, err := b.sizeOf(ctx, programs()[1])
	samples["of autopath"] = []float64{own.all / stock.all}
	return samples, err
}

// sizeOf measures a server once.
func (b *bed) sizeOf(ctx context.Context, p program) (size, error) {
	if known, ok := b.sizes[p.name]; ok {
		return known, nil
	}
	if len(b.sizes) == 0 {
		if _, err := b.serveAPI(largeAPI, large(largePods, b.Pod)); err != nil {
			return size{}, err
		}
	}
	var s size
	var err error
	// The one that has one pod has not been asked for much yet by then, either.
	if s.one, _, err = b.grown(ctx, p, "http://"+smallAPI, "one"); err != nil {
		return size{}, err
	}
	if s.all, s.peak, err = b.grown(ctx, p, "http://"+largeAPI, "all"); err != nil {
		return size{}, err
	}
	b.sizes[p.name] = s
	return s, nil
}

// memoryPort is beyond those of the servers whose work is measured.
const memoryPort = 5310

// grown starts another server, and returns its size when it has had its pods for a time.
func (b *bed) grown(ctx context.Context, p program, api, of string) (resident, peak float64, err error) {
	p.server = netip.AddrPortFrom(dnslab.NodeDNS, memoryPort)
	pid, server, err := b.start(ctx, p, api, of)
	if err != nil {
		return 0, 0, err
	}
	defer server.Stop()
	select {
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(settle):
	}
	return measure.MemoryMiB(pid)
}

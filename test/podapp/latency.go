package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// warmUp is how many rounds go before those that count: neighbours, caches, branch predictors.
const warmUp = 20

// A comparison is what latency prints. Parts that were not asked for are absent.
type comparison struct {
	Rounds  int      `json:"rounds"`
	Direct  *summary `json:"direct,omitempty"`  // connect() to a pod's own address
	Service *summary `json:"service,omitempty"` // connect() to a Service's address
	Lookup  *summary `json:"lookup,omitempty"`  // resolving a name
}

// A summary is a distribution of durations in nanoseconds.
type summary struct {
	P50 int64 `json:"p50_ns"`
	P99 int64 `json:"p99_ns"`
	Max int64 `json:"max_ns"`
}

// summarize takes the nearest rank, so each figure is a duration that was measured. It sorts d.
func summarize(d []time.Duration) summary {
	if len(d) == 0 {
		return summary{}
	}
	slices.Sort(d)
	rank := func(percent int) int64 { return d[(len(d)*percent+99)/100-1].Nanoseconds() }
	return summary{P50: rank(50), P99: rank(99), Max: rank(100)}
}

// A probe is one thing to measure.
type probe struct {
	measure func(context.Context) (time.Duration, error)
	into    **summary
	took    []time.Duration
}

func latencyCommand(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("latency", flag.ContinueOnError)
	direct := flags.String("direct", "", "address and port of a pod")
	service := flags.String("service", "", "address and port of a Service of that pod")
	name := flags.String("name", "", "name to look up")
	rounds := flags.Int("rounds", 1000, "how often each is measured")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	if *rounds < 1 {
		return fmt.Errorf("rounds %d is less than 1: %w", *rounds, errUsage)
	}
	result := comparison{Rounds: *rounds}
	var probes []*probe
	for _, p := range []struct {
		target string
		into   **summary
	}{{*direct, &result.Direct}, {*service, &result.Service}} {
		if p.target == "" {
			continue
		}
		to, err := resolve(ctx, p.target)
		if err != nil {
			return err
		}
		probes = append(probes, &probe{measure: func(context.Context) (time.Duration, error) { return timeConnect(to) }, into: p.into})
	}
	var lookups []*probe
	if *name != "" {
		lookups = append(lookups, &probe{measure: func(ctx context.Context) (time.Duration, error) { return timeLookup(ctx, *name) }, into: &result.Lookup})
	}
	if len(probes)+len(lookups) == 0 {
		return fmt.Errorf("nothing to measure: %w", errUsage)
	}
	// Lookups wake other programs and would leave the processor in another state for whichever probe comes next.
	if err := errors.Join(measure(ctx, probes, *rounds), measure(ctx, lookups, *rounds)); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// measure takes the probes in turn, so that whatever else the machine does meets all of them alike, and every other
// round backwards, so that none always comes after the same one.
func measure(ctx context.Context, probes []*probe, rounds int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	probes = slices.Clone(probes)
	for round := range warmUp + rounds {
		for _, p := range probes {
			if err := p.run(ctx, round >= warmUp); err != nil {
				return err
			}
		}
		slices.Reverse(probes)
	}
	for _, p := range probes {
		s := summarize(p.took)
		*p.into = &s
	}
	return nil
}

// run measures once and keeps the result if it counts.
func (p *probe) run(ctx context.Context, counts bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	took, err := p.measure(ctx)
	if err == nil && counts {
		p.took = append(p.took, took)
	}
	return err
}

func resolve(ctx context.Context, target string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errUsage, err)
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errUsage, err)
	}
	addrs, err := lookup(ctx, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(number)), nil
}

// timeConnect times the connect system call alone, on a blocking socket. The connection is reset at once, so that no
// round leaves a TIME_WAIT behind for the next.
func timeConnect(to netip.AddrPort) (time.Duration, error) {
	family, sockaddr := sockaddrOf(to)
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = syscall.Close(fd) }()
	linger := syscall.Linger{Onoff: 1, Linger: 0}
	if err := syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &linger); err != nil {
		return 0, fmt.Errorf("set linger: %w", err)
	}
	begin := time.Now()
	err = syscall.Connect(fd, sockaddr)
	took := time.Since(begin)
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", to, err)
	}
	return took, nil
}

func sockaddrOf(to netip.AddrPort) (family int, sockaddr syscall.Sockaddr) {
	if to.Addr().Is4() {
		return syscall.AF_INET, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return syscall.AF_INET6, &syscall.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

func timeLookup(ctx context.Context, name string) (time.Duration, error) {
	begin := time.Now()
	_, err := lookup(ctx, name)
	return time.Since(begin), err
}

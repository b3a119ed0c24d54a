package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/takeover"
)

const (
	defaultDrain = time.Minute
	// drainIdle is how long nothing may come of a connection that is waited for, and drainEvery how often is looked.
	drainIdle  = 10 * time.Second
	drainEvery = time.Second
)

// handBack gives Services back to kube-proxy: nothing new is translated from now on. What the socket hooks have translated
// needs nobody any more; what packets are translated for is waited for until it is idle, at most that long.
func handBack(ctx context.Context, pinDir string, most time.Duration, out io.Writer) error {
	if there, err := takeover.Programmed(ctx); err != nil {
		fmt.Fprintln(out, "cannot tell whether kube-proxy's rules are there:", err)
	} else if !there {
		fmt.Fprintln(out, "kube-proxy's rules are not on this node: nobody serves Services until kube-proxy runs again")
	}
	if err := bpf.HandBack(pinDir); err != nil {
		return fmt.Errorf("hand Services back: %w", err)
	}
	left, err := awaitIdle(ctx, most, func() (int, error) {
		now, err := bpf.Clock()
		if err != nil {
			return 0, err
		}
		return bpf.ActiveFlows(pinDir, now, drainIdle)
	})
	if err != nil {
		return fmt.Errorf("wait for connections: %w", err)
	}
	if left > 0 {
		fmt.Fprintf(out, "%d connections from outside were still in use after %s and end now\n", left, most)
	}
	return nil
}

// awaitIdle waits until nothing is active, at most that long, and returns what still is.
func awaitIdle(ctx context.Context, most time.Duration, active func() (int, error)) (left int, err error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		if left, err = active(); err != nil || left == 0 {
			return left, err
		}
		select {
		case <-ctx.Done():
			return left, nil
		case <-tick.C:
		}
	}
}

package main

import (
	"context"
	"time"
)

// A periodic is a Task that does something at once and then every so often. It is ready from the start: nothing waits for it.
type periodic struct {
	name  string
	every time.Duration
	do    func()
	ready chan struct{}
}

func newPeriodic(name string, every time.Duration, do func()) periodic {
	p := periodic{name, every, do, make(chan struct{})}
	close(p.ready)
	return p
}

func (p periodic) String() string         { return p.name }
func (p periodic) Ready() <-chan struct{} { return p.ready }

func (p periodic) Run(ctx context.Context) error {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		p.do()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

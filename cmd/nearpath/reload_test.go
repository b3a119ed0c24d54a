package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/strict"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// TestReload: a good change is applied, a bad one changes nothing and is told fault by fault, and what needs a new start
// is named.
func TestReload(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, "nodeName: a\npool: {minIdle: 1}")
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		var applied []config
		current, err := readConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		refuse := false
		var mu sync.Mutex // guards applied and refuse
		apply := func(c config) error {
			mu.Lock()
			defer mu.Unlock()
			if refuse {
				return errors.New("the pool says no")
			}
			applied = append(applied, c)
			return nil
		}
		read := func(path string) (config, error) {
			c, err := readConfig(path)
			c.CgroupRoot = current.CgroupRoot
			return c, errors.Join(err, strict.Check(c.Pool.check()))
		}
		r := newReloader(path, current, read, apply, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		// synctest's clock moves on when all wait; a full period passes before the next line is read.
		change := func(text string) string {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			log.take()
			mu.Unlock()
			time.Sleep(2 * r.every)
			synctest.Wait()
			mu.Lock()
			return log.take()
		}

		mu.Lock()
		if change("nodeName: a\npool: {minIdle: 4}"); len(applied) != 1 || applied[0].Pool.MinIdle != 4 {
			t.Errorf("applied %d configurations", len(applied))
		}
		said := change("pool: {minIdle: many, maxIdel: 3}")
		if len(applied) != 1 || value(t, r.good) != 0 || !strings.Contains(said, "pool.minIdle") || !strings.Contains(said, "maxIdle?") {
			t.Errorf("a bad file: %d applied, said %s", len(applied), said)
		}
		if said := change("pool: {minIdle: 9, maxIdle: 3}"); len(applied) != 1 || !strings.Contains(said, "pool.maxIdle") {
			t.Errorf("marks that contradict each other: %d applied, said %s", len(applied), said)
		}
		refuse = true
		if said := change("nodeName: a"); len(applied) != 1 || !strings.Contains(said, "says no") {
			t.Errorf("a refusal by the pool: %d applied, said %s", len(applied), said)
		}
		refuse = false
		said = change("nodeName: b\ncloud: {endpoint: x, vSwitches: [v]}")
		if len(applied) != 2 || value(t, r.good) != 1 || !strings.Contains(said, "cloud.endpoint, nodeName") || strings.Contains(said, "vSwitches") {
			t.Errorf("a change that needs a start: %d applied, said %s", len(applied), said)
		}
		mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestChangedKeys(t *testing.T) {
	t.Parallel()
	a, b := defaultConfig(), defaultConfig()
	b.Listen, b.Pool.Stack, b.Pool.MinIdle, b.DNS.Upstreams, b.DNS.Service, b.Cloud.STSEndpoint = a.Listen, "dual", 7, []string{"10.0.0.1"}, "a/b", "sts"
	if got := changedKeys("", fixed(a), fixed(b)); !slices.Equal(got, []string{"cloud.stsEndpoint", "dns.service", "pool.stack"}) {
		t.Errorf("changed keys %v", got)
	}
}

// A syncBuffer is written by one goroutine and read by another.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns what was written since the last time.
func (b *syncBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetGauge().GetValue() + out.GetCounter().GetValue()
}
